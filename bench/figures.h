// Samples and what to say of them; the machine they were taken on.
#pragma once

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

std::string describe_machine();  // cores, processor, kernel, load
std::string describe_commit();   // of the working directory

}  // namespace llmproxy::bench
