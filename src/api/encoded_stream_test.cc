// Bytes that nobody here can read pass untouched, as they come, and are not taken for events.
#include "api/encoded_stream.h"

#include <gtest/gtest.h>

#include "api/stream_trial.h"

namespace llmproxy {
namespace {

TEST(EncodedStream, PassesEveryByteAsItComes) {
  const std::string bytes =
      "\x1f\x8b\x08 data: [DONE]\n\ndata: {\"usage\":{\"prompt_tokens\":1}}\n\n\r";
  EncodedStream reader;
  const StreamTrial trial = try_stream(reader, bytes, every_offset(bytes.size()));
  EXPECT_EQ(trial.client, bytes);
  EXPECT_EQ(trial.held, "");
  EXPECT_EQ(trial.pieces.size(), bytes.size());
  EXPECT_TRUE(trial.facts.saw_other_bytes);
  EXPECT_EQ(trial.facts.data_events, 0U);
  EXPECT_FALSE(trial.facts.final_figure);
}

TEST(EncodedStream, NothingIsNoBytes) {
  EncodedStream reader;
  EXPECT_FALSE(try_stream(reader, "", {}).facts.saw_other_bytes);
}

}  // namespace
}  // namespace llmproxy
