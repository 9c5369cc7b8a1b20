// SHA-256, random bytes and hexadecimal, all by OpenSSL. Thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace llmproxy {

using Sha256 = std::array<uint8_t, 32>;

Sha256 sha256(std::string_view bytes);
void random_bytes(
    std::span<uint8_t> out);  // cryptographically strong; ends the process if it cannot

std::string to_hex(std::span<const uint8_t> bytes);         // lower case
void write_hex(std::span<const uint8_t> bytes, char* out);  // the same; twice as many characters
std::optional<std::string> from_hex(std::string_view hex);

// RFC 4648 section 5, no padding: 64 bytes give the 86 characters of a token.
std::string to_base64url(std::span<const uint8_t> bytes);

}  // namespace llmproxy
