// The backend's token in what the backend sends: its client must not get to know it. Overwritten
// where it stands, so that neither lengths nor framing change.
#pragma once

#include <cstddef>
#include <cstring>
#include <string_view>

namespace llmproxy {

class SecretMask {
 public:
  // Shorter tokens are placeholders ("EMPTY", "none", "x") of servers that want none: they occur in
  // ordinary text, which masking them would spoil, and there is nothing to keep.
  static constexpr size_t kBytesMin = 8;

  // `secret` outlives it.
  explicit SecretMask(std::string_view secret)
      : secret_(secret.size() >= kBytesMin ? secret : std::string_view()) {}

  bool is_in(std::string_view text) const {
    return !secret_.empty() && text.find(secret_) != std::string_view::npos;
  }

  // One search where there is nothing to mask.
  void apply(char* data, size_t size) const {
    if (secret_.empty()) return;
    char* const end = data + size;
    while (void* found =
               memmem(data, static_cast<size_t>(end - data), secret_.data(), secret_.size())) {
      data = static_cast<char*>(found);
      std::memset(data, '*', secret_.size());
      data += secret_.size();
    }
  }

  // So many bytes at the end of what was looked at may be the front of one that goes on.
  size_t overlap() const { return secret_.empty() ? 0 : secret_.size() - 1; }

 private:
  std::string_view secret_;
};

}  // namespace llmproxy
