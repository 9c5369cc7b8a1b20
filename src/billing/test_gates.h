// A disk that takes its time, or fails: calls wait at a gate while it is closed. Over real files.
// For tests only.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"

namespace llmproxy {

class Gate {
 public:
  void close() { set(true, 0); }  // calls hang
  void fail(int error) { set(false, error); }
  void open() { set(false, 0); }
  int pass() {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return !is_closed_; });
    --waiting_;
    return error_;
  }
  bool has_someone() {
    const std::lock_guard lock(mutex_);
    return is_closed_ && waiting_ > 0;
  }
  void await_someone() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return is_closed_ && waiting_ > 0; });
  }

 private:
  void set(bool is_closed, int error) {
    const std::lock_guard lock(mutex_);
    is_closed_ = is_closed;
    error_ = error;
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_closed_ = false;
  int waiting_ = 0;
  int error_ = 0;
};

struct Gates {
  Gate read, write, create;
};

class GatedFile final : public File {
 public:
  GatedFile(std::unique_ptr<File> file, std::shared_ptr<Gates> gates)
      : file_(std::move(file)), gates_(std::move(gates)) {}
  int write(uint64_t offset, std::string_view bytes) override {
    const int error = gates_->write.pass();
    return error != 0 ? error : file_->write(offset, bytes);
  }
  int read(uint64_t offset, std::span<char> into, size_t& n) override {
    const int error = gates_->read.pass();
    return error != 0 ? error : file_->read(offset, into, n);
  }
  int truncate(uint64_t size) override { return file_->truncate(size); }
  int size(uint64_t& bytes) override { return file_->size(bytes); }

 private:
  const std::unique_ptr<File> file_;
  const std::shared_ptr<Gates> gates_;
};

class GatedDirectory final : public Directory {
 public:
  GatedDirectory(std::unique_ptr<Directory> directory, std::shared_ptr<Gates> gates)
      : directory_(std::move(directory)), gates_(std::move(gates)) {}
  int list(std::vector<std::string>& names) override { return directory_->list(names); }
  int open(const std::string& name, std::unique_ptr<File>& file) override {
    return wrap(directory_->open(name, file), file);
  }
  int create(const std::string& name, uint64_t size, std::unique_ptr<File>& file) override {
    const int error = gates_->create.pass();
    return error != 0 ? error : wrap(directory_->create(name, size, file), file);
  }
  int rename(const std::string& from, const std::string& to) override {
    return directory_->rename(from, to);
  }
  int remove(const std::string& name) override { return directory_->remove(name); }
  int sync() override { return directory_->sync(); }
  int free_bytes(uint64_t& bytes) override { return directory_->free_bytes(bytes); }
  size_t block_bytes() const override { return directory_->block_bytes(); }

 private:
  int wrap(int error, std::unique_ptr<File>& file) {
    if (error == 0) file = std::make_unique<GatedFile>(std::move(file), gates_);
    return error;
  }
  const std::unique_ptr<Directory> directory_;
  const std::shared_ptr<Gates> gates_;
};

}  // namespace llmproxy
