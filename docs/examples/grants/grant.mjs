#!/usr/bin/env node
// Signs a grant with what Node has: no packages.
//
//     grant.mjs KEY-FILE SITE PREFIX SECONDS

import { createPrivateKey, sign } from 'node:crypto';
import { readFileSync } from 'node:fs';

/** The file that `umbel grant new-key` made: the key's name and its seed. */
export function loadKey(path) {
  const { id, seed } = JSON.parse(readFileSync(path, 'utf8'));
  // The fixed head of an Ed25519 private key in PKCS#8 (RFC 8410), and the seed.
  const head = Buffer.from('302e020100300506032b657004220420', 'hex');
  const der = Buffer.concat([head, Buffer.from(seed, 'base64url')]);
  return { id, key: createPrivateKey({ key: der, format: 'der', type: 'pkcs8' }) };
}

/** `claims`: at least one of prefix, prefixes and paths; net and methods if you like. */
export function signGrant({ id, key }, site, seconds, claims) {
  const now = Math.floor(Date.now() / 1000);
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const header = encode({ typ: 'JWT', alg: 'EdDSA', kid: id });
  const payload = encode({ aud: site, nbf: now, exp: now + seconds, ...claims });
  const signature = sign(null, Buffer.from(`${header}.${payload}`), key).toString('base64url');
  return `${header}.${payload}.${signature}`;
}

const [file, site, prefix, seconds] = process.argv.slice(2);
console.log(signGrant(loadKey(file), site, Number(seconds), { prefix }));
