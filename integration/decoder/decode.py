#!/usr/bin/env python3
"""Reads a vault without strongroom: unlocks it, lists it, checks it, decrypts it.

    decode.py VAULT --passphrase-file F list            every plain path, with what it is
    decode.py VAULT --key-file F check                  decrypts everything, reports damage
    decode.py VAULT --recovery-words-file F extract D   writes the plaintext to the directory D

The vault is only read. What a power cut left in the journal is taken into account. The exit code
is 0, or 1 where something is damaged, or 2 where the vault could not be opened.
"""

import argparse
import hashlib
import json
import os
import stat
import sys
import urllib.parse

import format1
from format1 import Damaged, WrongSecret

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character-device",
    stat.S_IFBLK: "block-device",
}


class Entry:
    """One plain file of any kind."""

    def __init__(self, path, cipher_path):
        self.path = path
        self.cipher_path = cipher_path
        self.stat = os.lstat(cipher_path)
        self.kind = KINDS[stat.S_IFMT(self.stat.st_mode)]
        self.directory_id = None
        self.modified = self.stat.st_mtime_ns
        self.size = 0
        self.sha256 = None
        self.damaged_blocks = []
        self.target = None
        self.xattrs = {}  # the value is None where it is damaged


class Vault:
    """An unlocked vault."""

    def __init__(self, directory, master_key):
        self.directory = directory
        self.keys = format1.Keys(master_key)
        self.problems = []
        segments = []
        for name in (b"journal.0", b"journal.1"):
            try:
                with open(os.path.join(directory, name), "rb") as segment:
                    segments.append(segment.read())
            except FileNotFoundError:
                pass
        self.overlays = format1.read_journal(self.keys, segments)

    def problem(self, path, what):
        self.problems.append((path, what))

    def entries(self):
        """Every entry, directories before what is in them. Damage is noted and passed over."""
        yield from self.subtree(b"", os.path.join(self.directory, b"tree"))

    def subtree(self, path, cipher_path):
        entry = self.read_entry(path, cipher_path)
        yield entry
        if entry.directory_id is None:
            return
        # Through a descriptor, so that the length of a path is no limit.
        descriptor = os.open(cipher_path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            here = b"/proc/self/fd/%d" % descriptor
            for name in sorted(os.listdir(here)):
                plain = self.plain_name(entry, here, name)
                if plain is not None:
                    yield from self.subtree(os.path.join(path, plain), os.path.join(here, name))
        finally:
            os.close(descriptor)

    def plain_name(self, directory, cipher_path, name):
        """The plain name of an entry; None for what is not the user's, or damaged."""
        try:
            if not name.startswith(b"strongroom."):
                return format1.open_name(self.keys, directory.directory_id, name)
            if not name.startswith(b"strongroom.long."):
                return None
            digest = name.removeprefix(b"strongroom.long.")
            whole = os.readlink(os.path.join(cipher_path, b"strongroom.name." + digest))
            if format1.base64url(hashlib.sha256(whole).digest()) != digest:
                raise Damaged("the sidecar of a long name is another's")
            return format1.open_name(self.keys, directory.directory_id, whole)
        except (OSError, Damaged) as error:
            self.problem(os.path.join(directory.path, name), f"the cipher name: {error}")
            return None

    def read_entry(self, path, cipher_path):
        entry = Entry(path, cipher_path)
        if entry.kind == "symlink":
            try:
                entry.target = self.symlink_target(cipher_path)
                entry.size = len(entry.target)
            except (OSError, Damaged) as error:
                self.problem(path, f"the symlink's target: {error}")
            return entry
        if entry.kind == "directory":
            try:
                record = os.readlink(os.path.join(cipher_path, b"strongroom.dir"))
                entry.directory_id = format1.open_record(self.keys, record)
            except (OSError, Damaged) as error:
                self.problem(path, f"the directory record: {error}")
        self.read_xattrs(entry)
        return entry

    def symlink_target(self, cipher_path):
        text = os.readlink(cipher_path)
        pieces = format1.split_overflow(text)
        if pieces:
            identity, first = pieces
            text = first + os.readlink(os.path.join(self.directory, b"overflow", identity))
        return format1.open_symlink(self.keys, text)

    def read_xattrs(self, entry):
        for stored in map(os.fsencode, os.listxattr(entry.cipher_path, follow_symlinks=False)):
            value = os.getxattr(entry.cipher_path, stored, follow_symlinks=False)
            if not stored.startswith(format1.XATTR_NAMESPACES):
                entry.xattrs[stored] = value  # the kernel's own: not encrypted
                continue
            name = None
            try:
                name = format1.open_xattr_name(self.keys, stored)
                if value[:1] == b"\x01":
                    overflow = os.path.join(self.directory, b"overflow", value[1:])
                    with open(overflow, "rb") as file:
                        sealed = file.read()
                elif value[:1] == b"\x00":
                    sealed = value[1:]
                else:
                    raise Damaged("neither inline nor overflow")
                in_value, plain = format1.open_xattr_value(self.keys, stored, sealed)
                entry.xattrs[name or in_value] = plain
            except (OSError, Damaged) as error:
                self.problem(entry.path, f"an extended attribute: {error}")
                if name:
                    entry.xattrs[name] = None

    def decrypt(self, entry, sink=None):
        """Decrypts a file block by block; zeros stand for a block that is damaged."""
        digest = hashlib.sha256()
        with open(entry.cipher_path, "rb") as file:
            for block in self.blocks(entry, file):
                digest.update(block)
                entry.size += len(block)
                if sink:
                    write_sparse(sink, block)
        entry.sha256 = digest.hexdigest()

    def blocks(self, entry, file):
        key, overlay = None, format1.Overlay()
        header = file.read(format1.HEADER_LEN)
        if header:
            try:
                file_id = format1.open_header(self.keys, header)
                key = self.keys.file(file_id)
                overlay = self.overlays.get(file_id, overlay)
                entry.modified = entry.modified if overlay.modified is None else overlay.modified
            except Damaged as error:
                self.problem(entry.path, f"the file header: {error}")
        size = overlaid_size(entry.stat.st_size, overlay)
        count = -(-format1.plain_size(size) // format1.BLOCK)
        for index in range(count):
            at = format1.HEADER_LEN + index * format1.CIPHER_BLOCK
            length = min(size - at, format1.CIPHER_BLOCK)
            file.seek(at)
            block = overlay.block(index, file.read(length).ljust(length, b"\0"))
            try:
                if key is None:
                    raise Damaged("unreadable without the header")
                yield format1.open_block(key, index, block)
            except Damaged as error:
                self.problem(entry.path, f"block {index}: {error}")
                entry.damaged_blocks.append(index)
                yield bytes(len(block) - format1.OVERHEAD)


def overlaid_size(size, overlay):
    """The size on disk once the journal is in place."""
    if not overlay.blocks:
        return size
    last = max(overlay.blocks)
    block = overlay.blocks[last]
    end = format1.HEADER_LEN + last * format1.CIPHER_BLOCK + len(block)
    return end if len(block) < format1.CIPHER_BLOCK else max(size, end)


def write_sparse(sink, block):
    if any(block):
        sink.write(block)
    else:
        sink.seek(len(block), os.SEEK_CUR)


def show(path):
    """A path for people: what is not printable UTF-8 is escaped."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def escape(data):
    return urllib.parse.quote(data, safe="/~")


def describe(entry):
    """An entry for programs. Paths, targets and names of attributes are percent-encoded."""
    fields = {
        "path": escape(entry.path),
        "kind": entry.kind,
        "mode": f"{stat.S_IMODE(entry.stat.st_mode):04o}",
        "uid": entry.stat.st_uid,
        "gid": entry.stat.st_gid,
        "mtime_ns": entry.modified,
    }
    if entry.kind == "directory":
        if entry.directory_id is None:
            fields["entries"] = "damaged"
    else:
        fields["links"] = entry.stat.st_nlink
    if entry.kind == "file":
        fields |= {"size": entry.size, "sha256": entry.sha256}
        if entry.damaged_blocks:
            fields["damaged_blocks"] = entry.damaged_blocks
    if entry.kind == "symlink":
        fields["target"] = "damaged" if entry.target is None else escape(entry.target)
    if entry.xattrs:
        fields["xattrs"] = {
            escape(name): "damaged" if value is None else value.hex()
            for name, value in sorted(entry.xattrs.items())
        }
    return fields


def list_or_check(vault, arguments):
    for entry in vault.entries():
        if entry.kind == "file":
            if arguments.command == "check" or arguments.json:
                vault.decrypt(entry)
            else:
                entry.size = format1.plain_size(entry.stat.st_size)
        if arguments.json:
            print(json.dumps(describe(entry)))
        elif arguments.command == "list":
            target = "" if entry.target is None else " -> " + show(entry.target)
            mode = stat.filemode(entry.stat.st_mode)
            print(f"{mode} {entry.size:>12} /{show(entry.path)}{target}")
            for name, value in sorted(entry.xattrs.items()):
                size = "damaged" if value is None else f"{len(value)} bytes"
                print(f"{'':23} {show(name)} ({size})")


def extract(vault, target):
    """Writes the plaintext below `target`, which is made."""
    target = os.fsencode(target)
    made = {}
    times = []
    for entry in vault.entries():
        path = os.path.join(target, entry.path) if entry.path else target
        inode = (entry.stat.st_dev, entry.stat.st_ino)
        if entry.kind != "directory" and inode in made:
            os.link(made[inode], path, follow_symlinks=False)
            continue
        made[inode] = path
        if entry.kind == "directory":
            os.mkdir(path, 0o700)
        elif entry.kind == "symlink":
            if entry.target is None:
                continue
            os.symlink(entry.target, path)
        elif entry.kind == "file":
            with open(path, "xb") as sink:
                vault.decrypt(entry, sink)
                sink.truncate(entry.size)
        else:
            os.mknod(path, entry.stat.st_mode, entry.stat.st_rdev)
        times.append((path, entry))
    # Directories last, and from the bottom: writing into them changes their times.
    for path, entry in reversed(times):
        set_metadata(path, entry)


def set_metadata(path, entry):
    if os.geteuid() == 0:
        os.lchown(path, entry.stat.st_uid, entry.stat.st_gid)
    if entry.kind != "symlink":
        for name, value in entry.xattrs.items():
            if value is None:
                continue
            try:
                os.setxattr(path, name, value, follow_symlinks=False)
            except OSError as error:
                where = f"/{show(entry.path)}: {show(name)}"
                print(f"decode.py: warning: {where}: not set: {error.strerror}", file=sys.stderr)
        os.chmod(path, stat.S_IMODE(entry.stat.st_mode))
    times = (entry.stat.st_atime_ns, entry.modified)
    os.utime(path, ns=times, follow_symlinks=False)


def read_secret(arguments):
    """The kind of slot and the secret, from whichever option was given."""
    if arguments.passphrase_file:
        with open(arguments.passphrase_file, "rb") as file:
            return "passphrase", file.read().removesuffix(b"\n")
    if arguments.key_file:
        with open(arguments.key_file, "rb") as file:
            return "key-file", file.read()
    with open(arguments.recovery_words_file, "rb") as file:
        return "recovery-key", file.read()


def main():
    parser = argparse.ArgumentParser(description="Reads a vault without strongroom.")
    parser.add_argument("vault", type=os.fsencode)
    parser.add_argument("--config", help="where vault.json lies, if not in the vault")
    secret = parser.add_mutually_exclusive_group(required=True)
    secret.add_argument("--passphrase-file", metavar="F")
    secret.add_argument("--key-file", metavar="F")
    secret.add_argument("--recovery-words-file", metavar="F")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="every plain path")
    commands.add_parser("check", help="decrypts everything, reports damage")
    commands.add_parser("extract", help="writes the plaintext").add_argument("target")
    arguments = parser.parse_args()
    sys.setrecursionlimit(20_000)

    config_path = arguments.config or os.path.join(arguments.vault, b"vault.json")
    try:
        with open(config_path, "rb") as file:
            config = format1.parse_config(file.read())
        vault = Vault(arguments.vault, format1.unlock(config, *read_secret(arguments)))
    except (OSError, Damaged, WrongSecret) as error:
        print(f"decode.py: error: {error}", file=sys.stderr)
        return 2
    if arguments.command == "extract":
        extract(vault, arguments.target)
    else:
        list_or_check(vault, arguments)
    for path, what in vault.problems:
        print(f"decode.py: damaged: /{show(path)}: {what}", file=sys.stderr)
    return 1 if vault.problems else 0


if __name__ == "__main__":
    sys.exit(main())
