#!/usr/bin/env python3
"""Reads an archive without strongroom, from docs/format-archive.md alone.

    archive1.py ARCHIVE --passphrase-file F unseal OUT    the compressed tar, unsealed
    archive1.py ARCHIVE --passphrase-file F check         every digest of the index
    archive1.py ARCHIVE --passphrase-file F list          the lines of the index

What is not sealed needs no secret. Needs the `cryptography` package, as format1.py does, and the
programs `zstd` and `lz4` for archives compressed so. The exit code is 0, or 1 where the archive is
damaged, or 2 where it could not be opened.
"""

import argparse
import base64
import gzip
import hashlib
import hmac
import io
import json
import os
import struct
import subprocess
import sys
import tarfile

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

import format1
from format1 import Damaged, WrongSecret, hkdf

MAGIC = b"\x93SRARC\r\n"
FOOTER_MAGIC = b"SRINDEX\n"
COMPRESSIONS = {0: "none", 1: "zstd", 2: "gzip", 3: "lz4"}
BEGINNINGS = {b"\x28\xb5\x2f\xfd": "zstd", b"\x1f\x8b": "gzip", b"\x04\x22\x4d\x18": "lz4"}
TAG = 16


class Archive:
    """An archive opened: `compressed()` is the compressed tar."""

    def __init__(self, path, kind=None, secret=None):
        self.file = open(path, "rb")
        self.length = os.fstat(self.file.fileno()).st_size
        prefix = self.file.read(48)
        self.sealed = prefix.startswith(MAGIC)
        if self.sealed:
            self.open_header(prefix, kind, secret)
        else:
            matches = [name for magic, name in BEGINNINGS.items() if prefix.startswith(magic)]
            self.compression = matches[0] if matches else "none"

    def open_header(self, prefix, kind, secret):
        version, compression, log2, config_len = struct.unpack("<HBBI", prefix[8:16])
        if version != 1:
            raise Damaged(f"archive version {version}, this reads version 1")
        if compression not in COMPRESSIONS or not 12 <= log2 <= 24 or config_len > 1 << 20:
            raise Damaged("an impossible header")
        rest = self.file.read(config_len + 32)
        if len(rest) != config_len + 32:
            raise Damaged("cut short")
        self.header = prefix + rest
        self.compression = COMPRESSIONS[compression]
        self.segment = 1 << log2
        self.id = prefix[16:48]
        self.config = format1.parse_config(rest[:config_len])
        if kind is None:
            raise WrongSecret("the archive is sealed, and no secret was given")
        master_key = format1.unlock(self.config, kind, secret)
        archive_key = hkdf(master_key, b"strongroom v1 archive" + self.id)
        header_key = hkdf(archive_key, b"strongroom v1 archive header")
        mac = hmac.digest(header_key, self.header[:-32], "sha256")
        if not hmac.compare_digest(mac, self.header[-32:]):
            raise Damaged("the header does not authenticate")
        header_hash = hashlib.sha256(self.header).digest()
        self.cipher = AESGCMSIV(hkdf(archive_key, b"strongroom v1 archive segments" + header_hash))
        sealed = self.length - len(self.header)
        self.segments = -(-sealed // (self.segment + TAG))
        self.payload_len = sealed - self.segments * TAG
        last = sealed - (self.segments - 1) * (self.segment + TAG) - TAG
        if self.segments < 1 or last < 1:
            raise Damaged("cut short")

    def open_segment(self, index):
        self.file.seek(len(self.header) + index * (self.segment + TAG))
        last = index == self.segments - 1
        nonce = bytes(7) + struct.pack(">IB", index, last)
        try:
            return self.cipher.decrypt(nonce, self.file.read(self.segment + TAG), b"\x0b")
        except InvalidTag as error:
            raise Damaged(f"segment {index} of {self.segments} does not authenticate") from error

    def compressed(self):
        """The compressed tar, piece by piece, without the footer."""
        if not self.sealed:
            self.file.seek(0)
            while piece := self.file.read(1 << 20):
                yield piece
            return
        left = self.payload_len - 24
        for index in range(self.segments):
            piece = self.open_segment(index)[: max(left, 0)]
            left -= len(piece)
            yield piece

    def footer(self):
        payload = b"".join(self.open_segment(i) for i in range(max(self.segments - 2, 0), self.segments))
        magic, index_offset, compressed_len = struct.unpack("<8sQQ", payload[-24:])
        if magic != FOOTER_MAGIC or compressed_len + 24 != self.payload_len:
            raise Damaged("the footer is wrong")
        return index_offset, compressed_len

    def tar(self):
        """The tar, decompressed whole. (This is a reader for tests: it takes the memory.)"""
        return decompress(b"".join(self.compressed()), self.compression)


def decompress(data, compression):
    if compression == "gzip":
        return gzip.decompress(data)
    if compression == "none":
        return data
    return subprocess.run([compression, "-d", "-c"], input=data, capture_output=True, check=True).stdout


def lines_and_digests(tar):
    """Every line of the index, and the digest of what is stored under its name."""
    lines = []
    stored = {}
    parts = hashlib.sha256()
    index = metadata = None
    # Bytes that are not UTF-8 come back as they were.
    with tarfile.open(fileobj=io.BytesIO(tar), encoding="utf-8", errors="surrogateescape") as archive:
        for number, entry in enumerate(archive):
            if number == 0:
                if entry.name != "metadata.json":
                    raise Damaged("it does not begin with its metadata")
                text = archive.extractfile(entry).read()
                metadata, digest = json.loads(text), hashlib.sha256(text).hexdigest()
            elif entry.name == "index.json":
                index = json.load(archive.extractfile(entry))
            elif entry.name.startswith("index/"):
                part = archive.extractfile(entry).read()
                parts.update(part)
                lines += [json.loads(line) for line in part.splitlines()]
            elif entry.isreg():
                stored[entry.name] = hashlib.sha256(archive.extractfile(entry).read()).hexdigest()
            else:
                stored[entry.name] = None
    if (index is None or metadata is None or index["sha256"] != parts.hexdigest()
            or index["metadata_sha256"] != digest):
        raise Damaged("the index does not add up")
    return metadata, lines, stored


def name_of(line):
    path = line["entry"]["path"]
    if isinstance(path, dict):
        path = os.fsdecode(base64.b64decode(path["base64"]))
    return line["section"] + ("/" + path if path else "")


def check(tar):
    """Compares what is stored with the index; how many entries."""
    _, lines, stored = lines_and_digests(tar)
    for line in lines:
        if "stored" in line:
            continue
        name = name_of(line)
        if name not in stored:
            raise Damaged(f"{name} is in the index only")
        digest = stored.pop(name)
        expected = line["entry"].get("sha256")
        if expected is not None and digest != expected:
            raise Damaged(f"{name} has another SHA-256 than its index says")
    if stored:
        raise Damaged(f"not in the index: {sorted(stored)[:5]}")
    return len(lines)


def read_secret(arguments):
    for kind, path in (
        ("passphrase", arguments.passphrase_file),
        ("key-file", arguments.key_file),
        ("recovery-key", arguments.recovery_words_file),
    ):
        if path:
            with open(path, "rb") as file:
                secret = file.read()
            return kind, secret.removesuffix(b"\n") if kind == "passphrase" else secret
    return None, None


def main():
    parser = argparse.ArgumentParser(description="Reads an archive without strongroom.")
    parser.add_argument("archive")
    parser.add_argument("--passphrase-file", metavar="F")
    parser.add_argument("--key-file", metavar="F")
    parser.add_argument("--recovery-words-file", metavar="F")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("unseal", help="writes the compressed tar").add_argument("out")
    commands.add_parser("check", help="every digest of the index")
    commands.add_parser("list", help="the lines of the index")
    arguments = parser.parse_args()
    try:
        archive = Archive(arguments.archive, *read_secret(arguments))
    except (OSError, Damaged, WrongSecret) as error:
        print(f"archive1.py: error: {error}", file=sys.stderr)
        return 2
    try:
        if arguments.command == "unseal":
            with open(arguments.out, "xb") as out:
                for piece in archive.compressed():
                    out.write(piece)
        elif arguments.command == "check":
            print(f"{check(archive.tar())} entries are as their index says")
        else:
            for line in lines_and_digests(archive.tar())[1]:
                print(json.dumps(line))
    except (Damaged, subprocess.CalledProcessError, tarfile.TarError, ValueError, KeyError) as error:
        print(f"archive1.py: damaged: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
