#!/usr/bin/env python3
"""Signs a grant with PyJWT (pip install 'pyjwt[crypto]').

    grant.py KEY-FILE SITE PREFIX SECONDS
"""

import base64
import json
import sys
import time

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def load_key(path):
    """The file that `umbel grant new-key` made: the key's name and its seed."""
    with open(path, encoding="utf-8") as file:
        key = json.load(file)
    seed = base64.urlsafe_b64decode(key["seed"] + "==")
    return key["id"], Ed25519PrivateKey.from_private_bytes(seed)


def sign_grant(key_id, key, site, seconds, **claims):
    """`claims`: at least one of prefix, prefixes and paths; net and methods if you like."""
    now = int(time.time())
    payload = {"aud": site, "nbf": now, "exp": now + seconds, **claims}
    return jwt.encode(payload, key, algorithm="EdDSA", headers={"kid": key_id})


if __name__ == "__main__":
    file, site, prefix, seconds = sys.argv[1:]
    key_id, key = load_key(file)
    print(sign_grant(key_id, key, site, int(seconds), prefix=prefix))
