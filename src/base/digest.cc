// Digest, randomness and text forms of bytes, by OpenSSL's EVP interface.
#include "base/digest.h"

#include <openssl/evp.h>
#include <openssl/rand.h>

#include <algorithm>
#include <memory>

#include "base/check.h"
#include "base/hex.h"

namespace llmproxy {

namespace {

// RAND_bytes counts in int.
constexpr size_t kRandomStep = size_t{1} << 30;

// Fetched once and never freed: OpenSSL 3.0 otherwise looks the algorithm up at every digest.
const EVP_MD* sha256_method() {
  static const EVP_MD* const method = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  return method;
}

}  // namespace

Sha256 sha256(std::string_view bytes) {
  // EVP_Digest would make a context each time, which costs more than the digest of a token.
  thread_local const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(
      EVP_MD_CTX_new(), EVP_MD_CTX_free);
  Sha256 digest{};
  unsigned size = 0;
  const bool is_done = EVP_DigestInit_ex2(context.get(), sha256_method(), nullptr) == 1 &&
                       EVP_DigestUpdate(context.get(), bytes.data(), bytes.size()) == 1 &&
                       EVP_DigestFinal_ex(context.get(), digest.data(), &size) == 1;
  LLMPROXY_CHECK(is_done && size == digest.size());
  return digest;
}

void random_bytes(std::span<uint8_t> out) {
  while (!out.empty()) {
    const size_t step = std::min(out.size(), kRandomStep);
    LLMPROXY_CHECK(RAND_bytes(out.data(), static_cast<int>(step)) == 1);
    out = out.subspan(step);
  }
}

std::string to_hex(std::span<const uint8_t> bytes) {
  std::string hex(bytes.size() * 2, '\0');
  write_hex(bytes, hex.data());
  return hex;
}

void write_hex(std::span<const uint8_t> bytes, char* out) {
  static constexpr char kDigits[] = "0123456789abcdef";
  for (const uint8_t byte : bytes) {
    *out++ = kDigits[byte >> 4];
    *out++ = kDigits[byte & 15];
  }
}

std::optional<std::string> from_hex(std::string_view hex) {
  if (hex.size() % 2 != 0) return std::nullopt;
  std::string bytes;
  bytes.reserve(hex.size() / 2);
  for (size_t i = 0; i < hex.size(); i += 2) {
    const int high = hex_value(hex[i]);
    const int low = hex_value(hex[i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    bytes += static_cast<char>(high << 4 | low);
  }
  return bytes;
}

std::string to_base64url(std::span<const uint8_t> bytes) {
  // EVP_EncodeBlock writes whole groups of four and a NUL behind them.
  std::string text((bytes.size() + 2) / 3 * 4 + 1, '\0');
  EVP_EncodeBlock(reinterpret_cast<uint8_t*>(text.data()), bytes.data(),
                  static_cast<int>(bytes.size()));
  text.resize((bytes.size() * 4 + 2) / 3);
  std::replace(text.begin(), text.end(), '+', '-');
  std::replace(text.begin(), text.end(), '/', '_');
  return text;
}

}  // namespace llmproxy
