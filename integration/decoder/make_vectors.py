#!/usr/bin/env python3
"""Makes tests/vectors/format-1.json, with Python's cryptography and docs/format.md alone.

    make_vectors.py > tests/vectors/format-1.json

The program's own tests read the file, so the two implementations check each other. Everything
here is fixed: another run gives the same bytes.
"""

import base64
import hashlib
import json
import struct

import format1

MASTER_KEY = bytes(range(32))
DIRECTORY_ID = bytes(range(0x40, 0x50))
FILE_ID = bytes(range(0x60, 0x70))
NONCE = bytes(range(0x80, 0x8C))
SALT = bytes(range(0xA0, 0xC0))
WORDS = "abandon " * 23 + "art"
KEYS = format1.Keys(MASTER_KEY)


def tagged(key, domain, data):
    """A tag over data that is not encrypted."""
    return format1.seal(key, format1.ZERO_NONCE, domain, data, b"")


def keys():
    derived = {
        label: format1.hkdf(MASTER_KEY, b"strongroom v1 " + label.encode()).hex()
        for label in (
            "content", "header", "name", "directory", "symlink", "xattr", "journal", "config",
            "migration",
        )
    }
    return {**derived, "file": KEYS.file(FILE_ID).hex()}


def directory_record(directory_id):
    record = b"\x01" + directory_id
    record += tagged(KEYS.directory, format1.D_DIRECTORY, record)
    return {"directory_id": directory_id.hex(), "target": format1.base64url(record).decode()}


def name(plain):
    whole = format1.seal_name(KEYS, DIRECTORY_ID, plain)
    vector = {"directory_id": DIRECTORY_ID.hex(), "plain": plain.hex(), "entry": whole.decode()}
    if len(whole) > 255:
        digest = format1.base64url(hashlib.sha256(whole).digest()).decode()
        vector["entry"] = "strongroom.long." + digest
        vector["sidecar"] = "strongroom.name." + digest
        vector["sidecar_target"] = whole.decode()
    return vector


def header(file_id):
    data = b"SR" + struct.pack("<H", 1) + file_id
    data += tagged(KEYS.header, format1.D_HEADER, data)
    return {"file_id": file_id.hex(), "header": data.hex()}


def block(index, plain):
    number = struct.pack("<Q", index)
    sealed = NONCE + format1.seal(KEYS.file(FILE_ID), NONCE, format1.D_BLOCK, number, plain)
    return {"file_id": FILE_ID.hex(), "index": index, "plain": plain.hex(), "sealed": sealed.hex()}


def symlink(plain):
    sealed = NONCE + format1.seal(KEYS.symlink, NONCE, format1.D_SYMLINK, b"", plain)
    text = format1.base64url(sealed).decode()
    if len(text) <= 4095:
        return {"plain": plain.hex(), "target": text}
    identity = format1.base64url(bytes(range(16))).decode()
    return {
        "plain": plain.hex(),
        "target": f"{identity}.{text[:4072]}",
        "overflow": identity,
        "overflow_target": text[4072:],
    }


def xattr(namespace, rest, value):
    plain_name = namespace + rest
    stored = format1.seal_xattr_name(KEYS, namespace, rest)
    plain = value
    if stored.startswith(namespace + b"srl."):
        plain = struct.pack("<H", len(plain_name)) + plain_name + value
    sealed = NONCE + format1.seal(KEYS.xattr, NONCE, format1.D_XATTR_VALUE, stored, plain)
    return {
        "name": plain_name.hex(),
        "value": value.hex(),
        "stored_name": stored.decode(),
        "stored_value": (b"\x00" + sealed).hex(),
    }


def text64(data):
    return base64.b64encode(data).decode()


def slot(config, identity, kind, label, kdf, secret):
    made = {
        "id": identity, "kind": kind, "label": label, "created": 1_750_000_000 + identity,
        "kdf": kdf, "salt": text64(SALT),
    }
    key = format1.slot_key(made, kind, secret)
    made["key_check"] = text64(format1.hkdf(key, b"strongroom v1 slot check"))
    wrapping_key = format1.hkdf(key, b"strongroom v1 slot wrap")
    binding = format1.slot_binding(config, made)
    sealed = format1.seal(wrapping_key, NONCE, format1.D_KEY_SLOT, binding, MASTER_KEY)
    made["wrapped_key"] = text64(NONCE + sealed)
    config["slots"].append(made)


def config():
    made = {
        "format": "strongroom vault",
        "version": 1,
        "vault_id": text64(bytes(range(16))),
        "created": 1_750_000_000,
        "required_features": [],
        "optional_features": ["example"],
        "ciphers": {
            "content": "aes-256-gcm-siv", "names": "aes-256-gcm-siv", "keys": "hkdf-sha256"
        },
        "slots": [],
    }
    argon2 = {"algorithm": "argon2id", "memory_kib": 64, "iterations": 2, "lanes": 2}
    hkdf = {"algorithm": "hkdf-sha256"}
    slot(made, 0, "passphrase", "caf\u00e9", argon2, b"correct horse")
    slot(made, 1, "key-file", "", hkdf, bytes(range(64)))
    slot(made, 2, "recovery-key", "paper", hkdf, WORDS.encode())
    made["mac"] = text64(format1.config_mac(made, MASTER_KEY))
    made["checksum"] = text64(format1.config_checksum(made))
    everything = format1.Canonical("strongroom v1 config")
    format1.put_everything(everything, made)
    return {
        "passphrase": b"correct horse".hex(),
        "key_file": bytes(range(64)).hex(),
        "recovery_words": WORDS,
        "slot_bindings": [format1.slot_binding(made, made_slot).hex() for made_slot in made["slots"]],
        "mac_input": everything.data.hex(),
        "text": json.dumps(made, indent=2, ensure_ascii=False) + "\n",
    }


def journal():
    session = bytes(range(0x20, 0x30))
    generation, first = 5, 77
    start = b"SRJOURNL" + struct.pack("<H6xQ16sQqI4x", 1, generation, session, first, 1_750_000_000, 9)
    segment = start + tagged(KEYS.journal, format1.D_JOURNAL, b"segment" + start)
    segment = segment.ljust(4096, b"\0")
    sealed = bytes.fromhex(block(3, b"in the journal")["sealed"])
    about = lambda local, number: struct.pack("<I4xQ", local, number)
    payloads = [
        (1, struct.pack("<I", 1) + FILE_ID + b"directory/file"),
        (2, about(1, 3) + sealed),
        (3, about(1, 9)),
        (4, about(1, 0) + struct.pack("<Q", 2)),
        (5, struct.pack("<qI", -1, 999_999_999)),
        (6, struct.pack("<Q", 4)),
        (7, b""),
    ]
    for sequence, (kind, payload) in enumerate(payloads, first):
        record = struct.pack("<B3xIQ", kind, len(payload), sequence) + payload
        place = b"record" + session + struct.pack("<QQ", generation, len(segment))
        data = bytes([format1.D_JOURNAL]) + place + record
        nonce = struct.pack("<Q4x", sequence)
        segment += record + format1.AESGCMSIV(KEYS.journal).encrypt(nonce, b"", data)
    return {
        "header": segment[:80].hex(),
        "session": session.hex(),
        "generation": generation,
        "first_sequence": first,
        "records_at": 4096,
        "records": segment[4096:].hex(),
    }


def state():
    windows = [{"from": 1_750_000_000, "until": 1_750_000_005}]
    data = b"state" + struct.pack("<I", 1)
    data += b"".join(struct.pack("<qq", window["from"], window["until"]) for window in windows)
    tag = format1.base64url(tagged(KEYS.journal, format1.D_JOURNAL, data)).decode()
    text = json.dumps({"version": 1, "windows": windows, "tag": tag}, separators=(",", ":"))
    return {"windows": windows, "text": text + "\n"}


def main():
    vectors = {
        "master_key": MASTER_KEY.hex(),
        "keys": keys(),
        "config": config(),
        "sizes": [[size, format1.cipher_size(size)] for size in (0, 1, 4096, 4097, 5000, 8192, 10 << 30)],
        "directory_records": [directory_record(DIRECTORY_ID), directory_record(bytes(16))],
        "names": [
            name(plain)
            for plain in (
                b"a", b"notes.txt", b"0123456789abcdef", "caf\u00e9".encode(), b"\xff\x01 \n",
                b"x" * 160, b"x" * 161, b"\xfe" * 255,
            )
        ],
        "headers": [header(FILE_ID), header(bytes(16))],
        "blocks": [
            block(0, b"hello"), block(1, b"hello"), block(1 << 40, bytes(1)), block(2, b"\xaa" * 4096)
        ],
        "symlinks": [symlink(b"../target"), symlink(b"t" * 3043), symlink(b"t" * 3044), symlink(b"t" * 4095)],
        "xattrs": [
            xattr(b"user.", b"comment", b"a value"),
            xattr(b"trusted.", b"overlay.opaque", b"y"),
            xattr(b"user.", b"empty", b""),
            xattr(b"user.", b"n" * 160, b"the longest name that is stored whole"),
            xattr(b"user.", b"n" * 161, b"the shortest that is not"),
            xattr(b"user.", b"n" * 250, b"the longest"),
        ],
        "journal": journal(),
        "state": state(),
    }
    print(json.dumps(vectors, indent=1))


if __name__ == "__main__":
    main()
