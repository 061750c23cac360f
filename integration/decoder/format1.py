"""Version 1 of the vault format, from bytes to bytes, written from docs/format.md alone.

Owns keys, configuration, names, blocks, records and the journal. Knows nothing of directories:
that is decode.py. Needs the `cryptography` package (48 or later, for Argon2id and AES-GCM-SIV).
"""

import base64
import hashlib
import hmac
import json
import struct
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

HEADER_LEN = 36
BLOCK = 4096
OVERHEAD = 28
CIPHER_BLOCK = BLOCK + OVERHEAD
ZERO_NONCE = bytes(12)

# The first byte of all associated data says what a ciphertext is.
D_BLOCK, D_HEADER, D_NAME, D_DIRECTORY, D_SYMLINK = 1, 2, 3, 4, 5
D_XATTR_NAME, D_XATTR_VALUE, D_JOURNAL, D_KEY_SLOT = 6, 7, 8, 9


class Damaged(Exception):
    """What was read does not authenticate, or is not of the format."""


class WrongSecret(Exception):
    """The secret opens no key slot."""


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def from_base64url(text):
    """Strict: one text for every sequence of bytes."""
    try:
        data = base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise Damaged("not base64url") from error
    if base64url(data) != text:
        raise Damaged("not canonical base64url")
    return data


def seal(key, nonce, domain, data, plain):
    """The ciphertext and its tag, joined."""
    return AESGCMSIV(key).encrypt(nonce, plain, bytes([domain]) + data)


def unseal(key, nonce, domain, data, cipher, tag):
    try:
        return AESGCMSIV(key).decrypt(nonce, cipher + tag, bytes([domain]) + data)
    except (InvalidTag, ValueError) as error:
        raise Damaged("does not authenticate") from error


def hkdf(key, label, salt=None):
    return HKDF(hashes.SHA256(), 32, salt, label).derive(key)


# --- The configuration -------------------------------------------------------------------------


class Canonical:
    """The bytes that hash, checksum and MAC are taken of: fields with their lengths."""

    def __init__(self, label):
        self.data = b""
        self.text(label)

    def field(self, data):
        self.data += struct.pack("<I", len(data)) + data

    def text(self, text):
        self.field(text.encode())

    def number(self, number):
        self.field(struct.pack("<Q", number))

    def texts(self, texts):
        self.number(len(texts))
        for text in texts:
            self.text(text)


def put_invariant(canonical, config):
    canonical.number(config["version"])
    canonical.field(base64.b64decode(config["vault_id"]))
    canonical.number(config["created"])
    canonical.texts(config["required_features"])
    for role in ("content", "names", "keys"):
        canonical.text(role)
        canonical.text(config["ciphers"][role])


def put_slot(canonical, slot):
    canonical.number(slot["id"])
    canonical.text(slot["kind"])
    canonical.text(slot["label"])
    canonical.number(slot["created"])
    canonical.text(slot["kdf"]["algorithm"])
    for cost in ("memory_kib", "iterations", "lanes"):
        canonical.number(slot["kdf"].get(cost, 0))
    canonical.field(base64.b64decode(slot["salt"]))


def put_everything(canonical, config):
    put_invariant(canonical, config)
    canonical.texts(config["optional_features"])
    canonical.number(len(config["slots"]))
    for slot in config["slots"]:
        put_slot(canonical, slot)
        canonical.field(base64.b64decode(slot["key_check"]))
        canonical.field(base64.b64decode(slot["wrapped_key"]))


def slot_binding(config, slot):
    canonical = Canonical("strongroom v1 key slot")
    put_invariant(canonical, config)
    put_slot(canonical, slot)
    return hashlib.sha256(canonical.data).digest()


def config_mac(config, master_key):
    canonical = Canonical("strongroom v1 config")
    put_everything(canonical, config)
    key = hkdf(master_key, b"strongroom v1 config")
    return hmac.new(key, canonical.data, hashlib.sha256).digest()


def config_checksum(config):
    canonical = Canonical("strongroom v1 config checksum")
    put_everything(canonical, config)
    canonical.field(base64.b64decode(config["mac"]))
    return hashlib.sha256(canonical.data).digest()


def parse_config(text):
    """Reads vault.json and checks all that can be checked without a secret."""

    def no_duplicates(pairs):
        fields = dict(pairs)
        if len(fields) != len(pairs):
            raise Damaged("vault.json: a field occurs twice")
        return fields

    try:
        config = json.loads(text, object_pairs_hook=no_duplicates)
        if config["format"] != "strongroom vault":
            raise Damaged("vault.json: not the configuration of a vault")
        if config["version"] != 1:
            raise Damaged(f"vault.json: format version {config['version']}, this reads version 1")
        if config["required_features"]:
            raise Damaged(f"vault.json: unknown features {config['required_features']}")
        if config_checksum(config) != base64.b64decode(config["checksum"], validate=True):
            raise Damaged("vault.json: the checksum does not fit")
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise Damaged(f"vault.json: {error!r}") from error
    return config


def words_to_entropy(text):
    """The 32 bytes of a recovery key of 24 BIP-39 words."""
    known = (Path(__file__).parent / "bip39-english.txt").read_text().split()
    words = text.lower().split()
    if len(words) != 24:
        raise WrongSecret(f"a recovery key has 24 words, not {len(words)}")
    try:
        number = 0
        for word in words:
            number = number << 11 | known.index(word)
    except ValueError as error:
        raise WrongSecret("a word of the recovery key is not in the list") from error
    data = number.to_bytes(33, "big")
    if hashlib.sha256(data[:32]).digest()[0] != data[32]:
        raise WrongSecret("the checksum of the recovery key does not fit")
    return data[:32]


def slot_key(slot, kind, secret):
    """The key-encryption key that a secret gives with a slot's parameters."""
    salt = base64.b64decode(slot["salt"])
    if kind == "passphrase":
        kdf = slot["kdf"]
        memory, iterations, lanes = kdf["memory_kib"], kdf["iterations"], kdf["lanes"]
        if memory > 1 << 20 or memory * iterations > 16 << 20 or lanes > 16:
            raise Damaged(f"key slot {slot['id']}: parameters out of bounds")
        argon2 = Argon2id(
            salt=salt, length=32, iterations=iterations, lanes=lanes, memory_cost=memory
        )
        return argon2.derive(secret)
    if kind == "key-file":
        return hkdf(secret, b"strongroom v1 key file", salt)
    return hkdf(words_to_entropy(secret.decode()), b"strongroom v1 recovery key", salt)


def unwrap(config, slot, key):
    """The master key of a slot; None where the key is not the slot's."""
    check = hkdf(key, b"strongroom v1 slot check")
    if not hmac.compare_digest(check, base64.b64decode(slot["key_check"])):
        return None
    wrapped = base64.b64decode(slot["wrapped_key"])
    wrapping_key = hkdf(key, b"strongroom v1 slot wrap")
    binding = slot_binding(config, slot)
    return unseal(wrapping_key, wrapped[:12], D_KEY_SLOT, binding, wrapped[12:44], wrapped[44:])


def unlock(config, kind, secret):
    """The master key, once the whole configuration authenticates under it."""
    for slot in config["slots"]:
        if slot["kind"] != kind:
            continue
        master_key = unwrap(config, slot, slot_key(slot, kind, secret))
        if master_key is None:
            continue
        mac = base64.b64decode(config["mac"])
        if not hmac.compare_digest(config_mac(config, master_key), mac):
            raise Damaged("vault.json: the MAC does not fit")
        return master_key
    raise WrongSecret(f"the {kind} opens no key slot")


# --- The ciphertext ----------------------------------------------------------------------------


class Keys:
    """All the keys that come from the master key."""

    def __init__(self, master_key):
        for name in ("content", "header", "name", "directory", "symlink", "xattr", "journal"):
            setattr(self, name, hkdf(master_key, b"strongroom v1 " + name.encode()))

    def file(self, file_id):
        return hkdf(self.content, b"strongroom v1 file" + file_id)


def plain_size(cipher_size):
    if cipher_size <= HEADER_LEN:
        return 0
    full, rest = divmod(cipher_size - HEADER_LEN, CIPHER_BLOCK)
    return full * BLOCK + max(rest - OVERHEAD, 0)


def cipher_size(plain):
    return 0 if plain == 0 else HEADER_LEN + plain + -(-plain // BLOCK) * OVERHEAD


def open_record(keys, target):
    """The directory ID in a directory record."""
    record = from_base64url(target)
    if len(record) != 33 or record[0] != 1:
        raise Damaged("directory record")
    unseal(keys.directory, ZERO_NONCE, D_DIRECTORY, record[:17], b"", record[17:])
    return record[1:17]


def open_header(keys, header):
    """The file ID in a file header."""
    if len(header) != HEADER_LEN:
        raise Damaged("file header")
    unseal(keys.header, ZERO_NONCE, D_HEADER, header[:20], b"", header[20:])
    if header[:4] != b"SR\x01\x00":
        raise Damaged("file header of another version")
    return header[4:20]


def open_block(file_key, index, block):
    """The plaintext of a block."""
    if not any(block):
        return bytes(max(len(block) - OVERHEAD, 0))
    if len(block) <= OVERHEAD:
        raise Damaged("short block")
    number = struct.pack("<Q", index)
    return unseal(file_key, block[:12], D_BLOCK, number, block[12:-16], block[-16:])


def open_padded(key, nonce, domain, data, text):
    """What a name is encrypted as: `tag ciphertext`, the plaintext padded with NULs."""
    sealed = from_base64url(text)
    if len(sealed) < 32 or len(sealed) % 16:
        raise Damaged("name")
    plain = unseal(key, nonce, domain, data, sealed[16:], sealed[:16]).rstrip(b"\0")
    if not plain:
        raise Damaged("empty name")
    return plain


def seal_padded(key, nonce, domain, data, plain):
    padded = plain + bytes(-len(plain) % 16) if plain else bytes(16)
    sealed = seal(key, nonce, domain, data, padded)
    return base64url(sealed[-16:] + sealed[:-16])


def open_name(keys, directory_id, cipher_name):
    return open_padded(keys.name, directory_id[:12], D_NAME, directory_id, cipher_name)


def seal_name(keys, directory_id, name):
    return seal_padded(keys.name, directory_id[:12], D_NAME, directory_id, name)


def open_symlink(keys, text):
    sealed = from_base64url(text)
    return unseal(keys.symlink, sealed[:12], D_SYMLINK, b"", sealed[12:-16], sealed[-16:])


def split_overflow(target):
    """Overflow ID and first piece of a symlink's target; None for one without overflow."""
    return (target[:22], target[23:]) if target[22:23] == b"." else None


XATTR_NAMESPACES = (b"user.", b"trusted.")
# File capabilities, under a name that nobody else can have.
CAPABILITIES = b"user.\0security.capability"


def open_xattr_name(keys, stored):
    """The plain name of an attribute; None where the value begins with it."""
    for namespace in XATTR_NAMESPACES:
        if stored.startswith(namespace + b"srl."):
            return None
        if stored.startswith(namespace + b"sr."):
            text = stored[len(namespace) + 3 :]
            plain = open_padded(keys.xattr, ZERO_NONCE, D_XATTR_NAME, namespace, text)
            name = namespace + plain
            return b"security.capability" if name == CAPABILITIES else name
    raise Damaged("not an attribute of the vault")


def seal_xattr_name(keys, namespace, rest):
    text = seal_padded(keys.xattr, ZERO_NONCE, D_XATTR_NAME, namespace, rest)
    if len(namespace) + 3 + len(text) <= 255:
        return namespace + b"sr." + text
    return namespace + b"srl." + base64url(hashlib.sha256(text).digest())


def open_xattr_value(keys, stored_name, sealed):
    """The plain name (None where the stored name has it) and the value of an attribute."""
    plain = unseal(
        keys.xattr, sealed[:12], D_XATTR_VALUE, stored_name, sealed[12:-16], sealed[-16:]
    )
    if b".srl." not in stored_name[:13]:
        return None, plain
    if len(plain) < 2 or len(plain) < 2 + int.from_bytes(plain[:2], "little"):
        raise Damaged("attribute")
    end = 2 + int.from_bytes(plain[:2], "little")
    return plain[2:end], plain[end:]


# --- The journal -------------------------------------------------------------------------------


class Overlay:
    """What the journal holds of one file and may not be in place yet."""

    def __init__(self):
        self.blocks = {}  # index: sealed block; b"" for a hole
        self.holes = []  # (first, after), older than every block above
        self.modified = None  # nanoseconds since 1970

    def block(self, index, in_place):
        if index in self.blocks:
            return self.blocks[index]
        if any(first <= index < after for first, after in self.holes):
            return bytes(len(in_place))
        return in_place


def read_segment(keys, segment):
    """A segment's header and records; None for one without an authentic header."""
    header, tag = segment[:64], segment[64:80]
    try:
        unseal(keys.journal, ZERO_NONCE, D_JOURNAL, b"segment" + header, b"", tag)
    except Damaged:
        return None
    if header[:8] != b"SRJOURNL" or header[8:10] != b"\x01\x00":
        return None
    generation, session, sequence = struct.unpack("<Q16sQ", header[16:48])
    records, at = [], 4096
    first_sequence = sequence
    while True:
        start = segment[at : at + 16]
        if len(start) < 16 or start[0] == 0:
            break
        kind, length, number = struct.unpack("<B3xIQ", start)
        record = segment[at : at + 16 + length]
        tag = segment[at + 16 + length : at + 32 + length]
        if length > 4 << 20 or len(tag) < 16 or number != sequence:
            break
        place = b"record" + session + struct.pack("<QQ", generation, at)
        nonce = struct.pack("<Q4x", sequence)
        try:
            unseal(keys.journal, nonce, D_JOURNAL, place + record, b"", tag)
        except Damaged:
            break
        records.append((kind, record[16:]))
        sequence += 1
        at += 32 + length
    return {
        "generation": generation,
        "session": session,
        "first": first_sequence,
        "next": sequence,
        "records": records,
    }


def read_journal(keys, segments):
    """Overlays by file ID, from the contents of journal.0 and journal.1."""
    read = [segment for segment in (read_segment(keys, data) for data in segments) if segment]
    read.sort(key=lambda segment: segment["generation"])
    retired, clean = set(), False
    for segment in read:
        for kind, payload in segment["records"]:
            if kind == 6:
                retired.add(struct.unpack("<Q", payload)[0])
            clean = clean or kind == 7
    overlays = {}
    if clean:
        return overlays
    expected = None
    for segment in read:
        if segment["generation"] in retired:
            continue
        if expected and expected[0] == segment["session"] and expected[1] != segment["first"]:
            break
        expected = (segment["session"], segment["next"])
        apply_records(overlays, segment["records"])
    return overlays


def apply_records(overlays, records):
    files = {}
    for kind, payload in records:
        local = int.from_bytes(payload[:4], "little")
        if kind == 1:
            files[local] = overlays.setdefault(payload[4:20], Overlay())
        if kind not in (2, 3, 4, 8) or local not in files:
            continue
        overlay = files[local]
        first = int.from_bytes(payload[8:16], "little")
        if kind == 2:
            for number, at in enumerate(range(16, len(payload), CIPHER_BLOCK)):
                overlay.blocks[first + number] = payload[at : at + CIPHER_BLOCK]
        elif kind == 8:
            nanoseconds, seconds = struct.unpack("<Iq", payload[4:])
            overlay.modified = seconds * 1_000_000_000 + nanoseconds
        elif kind == 3:
            overlay.blocks = {i: b for i, b in overlay.blocks.items() if i < first}
            overlay.holes = [(a, min(b, first)) for a, b in overlay.holes if a < first]
        else:
            after = first + int.from_bytes(payload[16:24], "little")
            kept = {i: b for i, b in overlay.blocks.items() if not first <= i < after}
            overlay.blocks = kept
            overlay.holes.append((first, after))
