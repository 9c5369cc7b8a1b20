// The figures of a stream with several choices. Which of them make the bill:
//   - one figure in a chunk with empty `choices`, when every choice seen has finished and none
//   comes
//     after it: that one (OpenAI, vLLM, SGLang);
//   - as many such figures as choices were asked for, all of them finished: completions summed, the
//     prompt once (llama.cpp; the first may come while another choice still runs);
//   - no such figure nor a running one, but one on the last chunk of each choice, all of them:
//   summed;
//   - no such figure nor a running one, and one on the chunk that finishes the last of all choices:
//   it.
// Running figures rule the last two out: they may be of the choice (vLLM) or of all (Gemini).
// Anything else gives none, and the request is unresolved. So does a figure that could not be read.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "api/usage.h"

namespace llmproxy {

class ChoiceTally {
 public:
  static constexpr int64_t kChoicesMax = 1024;  // more are not told apart: no final figure

  explicit ChoiceTally(int64_t choices) : choices_(choices) {}

  // A choice in a chunk. Its index may be any number from the backend.
  void see(int64_t index, bool is_finished);
  // Figures, after the choices of the same chunk. `index`: of the chunk's one choice, or negative.
  void add_end_figure(Figure figure);
  void add_finish_figure(Figure figure, int64_t index);
  void add_running_figure() { ++running_; }
  bool has_running_figure() const { return running_ > 0; }
  void spoil() { is_spoiled_ = true; }  // something was not understood

  struct Total {
    std::optional<Figure> figure;
    bool is_malformed = false;  // prompts that differ, or a sum beyond kCountMax
  };
  Total total(bool saw_error) const;

 private:
  struct Sum {
    int64_t count = 0;
    bool is_malformed = false;
    bool closes_all =
        false;      // when the last came, every choice seen had finished; none came after it
    Figure figure;  // completions summed
    Figure last;

    void add(Figure next, bool closes);
  };

  bool all_seen_finished() const { return finished_ > 0 && finished_ == seen_; }

  const int64_t choices_;
  int64_t seen_ = 0;
  int64_t finished_ = 0;
  int64_t running_ = 0;
  bool is_spoiled_ = false;
  bool is_shared_ = false;       // a figure on a chunk that finishes several choices
  std::vector<uint8_t> states_;  // by index: kSeen, kFinished, kHasFigure
  Sum ends_;
  Sum finishes_;
};

}  // namespace llmproxy
