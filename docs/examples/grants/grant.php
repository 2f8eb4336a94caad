<?php
// Signs a grant with the sodium extension, which PHP has had since 7.2: no packages.
//
//     php grant.php KEY-FILE SITE PREFIX SECONDS

declare(strict_types=1);

/** The file that `umbel grant new-key` made: the key's name and its seed. */
function load_key(string $path): array
{
    $key = json_decode(file_get_contents($path), true, flags: JSON_THROW_ON_ERROR);
    $seed = sodium_base642bin($key['seed'], SODIUM_BASE64_VARIANT_URLSAFE_NO_PADDING);
    return [$key['id'], sodium_crypto_sign_secretkey(sodium_crypto_sign_seed_keypair($seed))];
}

/** $claims: at least one of prefix, prefixes and paths; net and methods if you like. */
function sign_grant(array $key, string $site, int $seconds, array $claims): string
{
    [$id, $secret] = $key;
    $now = time();
    $encode = fn (string $bytes): string => sodium_bin2base64($bytes, SODIUM_BASE64_VARIANT_URLSAFE_NO_PADDING);
    $header = $encode(json_encode(['typ' => 'JWT', 'alg' => 'EdDSA', 'kid' => $id]));
    $payload = $encode(json_encode(['aud' => $site, 'nbf' => $now, 'exp' => $now + $seconds] + $claims));
    return "$header.$payload." . $encode(sodium_crypto_sign_detached("$header.$payload", $secret));
}

[, $file, $site, $prefix, $seconds] = $argv;
echo sign_grant(load_key($file), $site, (int) $seconds, ['prefix' => $prefix]), "\n";
