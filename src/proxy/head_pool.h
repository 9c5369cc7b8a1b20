// Heads of requests, used again: an idle connection has none, and a request's has room for its
// headers from an earlier one. One thread.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "http/head.h"

namespace llmproxy {

class HeadPool {
 public:
  static constexpr size_t kHeadsKeptMax = 512;  // of up to headers_max headers

  HeadPool() { free_.reserve(kHeadsKeptMax); }  // so that giving one back cannot fail

  // One of the pool's for as long as it lives: empty or with an earlier request in it.
  class Lease {
   public:
    explicit Lease(HeadPool& pool) : pool_(pool), head_(pool.take()) {}
    ~Lease() { pool_.give(std::move(head_)); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    http::RequestHead& head() const { return *head_; }

   private:
    HeadPool& pool_;
    std::unique_ptr<http::RequestHead> head_;
  };

  // Frees those that nobody has needed since the last call. How many bytes they had.
  size_t trim() {
    size_t trimmed = std::exchange(unused_, free_.size() - unused_);
    size_t bytes = 0;
    for (; trimmed > 0; --trimmed) {
      bytes += sizeof(http::RequestHead) + free_.back()->headers.capacity() * sizeof(http::Header);
      free_.pop_back();
    }
    return bytes;
  }

 private:
  std::unique_ptr<http::RequestHead> take() {
    if (free_.empty()) return std::make_unique<http::RequestHead>();
    auto head = std::move(free_.back());
    free_.pop_back();
    unused_ = std::min(unused_, free_.size());
    return head;
  }
  void give(std::unique_ptr<http::RequestHead> head) {
    if (free_.size() < kHeadsKeptMax) free_.push_back(std::move(head));
  }

  std::vector<std::unique_ptr<http::RequestHead>> free_;
  size_t unused_ = 0;  // the least that were free since the last trim
};

}  // namespace llmproxy
