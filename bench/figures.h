// Samples and what to say of them; the machine they were taken on.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace llmproxy::bench {

class Samples {
 public:
  void add(double value) { values_.push_back(value); }
  void add_all(const Samples& other);
  bool empty() const { return values_.empty(); }
  double percentile(double percent) const;  // nearest rank; 0 without samples
  double median() const { return percentile(50); }
  double min() const { return percentile(0); }
  double max() const { return percentile(100); }
  const std::vector<double>& all() const { return values_; }  // in the order they came

 private:
  std::vector<double> values_;
};

// Of two lists of rounds, one by one.
template <class Operation>
Samples combine(const Samples& one, const Samples& other, Operation operation) {
  Samples results;
  for (size_t i = 0; i < std::min(one.all().size(), other.all().size()); ++i) {
    results.add(operation(one.all()[i], other.all()[i]));
  }
  return results;
}

std::string spread(const Samples& samples, int digits);  // "median (min..max)"; "" without any

// A table in Markdown, printed when its owner ends.
class Table {
 public:
  explicit Table(const std::vector<std::string>& heading) { add(heading); }
  ~Table() { print(); }
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;
  void add(const std::vector<std::string>& row) { rows_.push_back(row); }

 private:
  void print() const;
  std::vector<std::vector<std::string>> rows_;
};

std::string describe_machine();  // cores, processor, kernel, load
std::string describe_commit();   // of the working directory

}  // namespace llmproxy::bench
