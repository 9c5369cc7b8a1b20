// Byte buffers of connections. A block belongs to a connection only while bytes are in it or a read
// is about to happen; idle connections and waiting streams hold none. Blocks come from the server's
// pool; what needs more room grows on the heap up to the caller's bound. One thread.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

namespace llmproxy::net {

constexpr size_t kBlockBytes = 16384;

class BlockPool {
 public:
  static constexpr size_t kBlocksKeptMax = 512;  // 8 MiB

  std::unique_ptr<char[]> take();
  void give(std::unique_ptr<char[]> block);
  // Frees those that nobody has needed since the last call. How many bytes they had.
  size_t trim();

 private:
  std::vector<std::unique_ptr<char[]>> free_;
  size_t unused_ = 0;  // the least that were free since the last trim
};

class Buffer {
 public:
  explicit Buffer(BlockPool& pool) : pool_(pool) {}
  ~Buffer() { reset(); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::string_view bytes() const { return {memory_.get() + begin_, end_ - begin_}; }
  char* data() { return memory_.get() + begin_; }
  size_t size() const { return end_ - begin_; }
  bool empty() const { return begin_ == end_; }

  // Room after the bytes; 0 when there is no block or it is full.
  char* tail() { return memory_.get() + end_; }
  size_t room() const { return capacity_ - end_; }

  // Makes room: takes a block, moves the bytes to the front, or grows (doubling) up to `limit`
  // bytes of capacity. False when the bytes already fill `limit`. Views into the buffer end here.
  bool make_room(size_t limit);

  void append(size_t n) { end_ += n; }  // n bytes were written at tail()
  void consume(size_t n);  // n bytes at the front are done with; an empty buffer rewinds
  void truncate(size_t n) { end_ = begin_ + n; }

  // Copies `text` behind the bytes. Memory runs out as anywhere else: by an exception.
  void add(std::string_view text);

  // Gives the block back if no bytes are in it.
  void release() {
    if (empty()) reset();
  }
  void reset();  // gives the block back, bytes or not

 private:
  void extend(size_t more);
  void move_to(size_t capacity);

  BlockPool& pool_;
  std::unique_ptr<char[]> memory_;
  size_t capacity_ = 0, begin_ = 0, end_ = 0;
};

inline void Buffer::add(std::string_view text) {
  if (text.empty()) return;
  if (room() < text.size()) extend(text.size());
  std::memcpy(tail(), text.data(), text.size());
  end_ += text.size();
}

}  // namespace llmproxy::net
