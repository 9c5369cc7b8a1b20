// The allow-lists, both ways: what passes, and that nothing else does.
#include "proxy/header_rules.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace llmproxy {
namespace {

using http::Header;

std::string call_headers(std::vector<Header> headers) {
  http::RequestHead head;
  head.headers = std::move(headers);
  net::BlockPool blocks;
  net::Buffer out(blocks);
  add_call_headers(out, head);
  return std::string(out.bytes());
}

std::string reply_headers(std::vector<Header> headers, std::string_view secret = "") {
  http::ResponseHead head;
  head.headers = std::move(headers);
  std::string out;
  append_reply_headers(out, head, SecretMask(secret));
  return out;
}

TEST(CallHeaders, OnlyListedOnesPass) {
  EXPECT_EQ(call_headers({{"Accept", "application/json"},
                          {"USER-AGENT", "OpenAI/Python 1.0"},
                          {"traceparent", "00-1-2-01"}}),
            "Accept: application/json\r\nUSER-AGENT: OpenAI/Python 1.0\r\n"
            "traceparent: 00-1-2-01\r\n");
  for (const char* name : {"Authorization",
                           "Cookie",
                           "Host",
                           "Content-Length",
                           "Content-Type",
                           "Transfer-Encoding",
                           "Connection",
                           "Keep-Alive",
                           "TE",
                           "Upgrade",
                           "Proxy-Authorization",
                           "Expect",
                           "X-Forwarded-For",
                           "Forwarded",
                           "X-Real-IP",
                           "X-Api-Key",
                           "X-Request-Id",
                           "Accept-Encoding",
                           "OpenAI-Organization",
                           "X-Anything",
                           "accep",
                           "acceptt"}) {
    EXPECT_EQ(call_headers({{name, "value"}}), "") << name;
  }
}

TEST(CallHeaders, WhatConnectionNamesIsForThisHopAlone) {
  EXPECT_EQ(call_headers({{"Baggage", "a=1"}, {"Accept", "x"}, {"Connection", "close, BAGGAGE"}}),
            "Accept: x\r\n");
  EXPECT_EQ(call_headers({{"Baggage", "a=1"}, {"Connection", "close"}, {"connection", "baggage"}}),
            "");
  EXPECT_EQ(call_headers({{"Baggage", "a=1"}, {"Connection", "not-baggage"}}), "Baggage: a=1\r\n");
}

TEST(ReplyHeaders, OnlyListedOnesPass) {
  EXPECT_EQ(reply_headers({{"Content-Type", "application/json"},
                           {"retry-after", "3"},
                           {"X-RateLimit-Remaining-Requests", "9"}}),
            "Content-Type: application/json\r\nretry-after: 3\r\n"
            "X-RateLimit-Remaining-Requests: 9\r\n");
  for (const char* name : {"Set-Cookie", "Server", "Date", "Content-Length", "Transfer-Encoding",
                           "Connection", "Keep-Alive", "Trailer", "Location", "X-Request-Id",
                           "WWW-Authenticate", "Via", "Alt-Svc", "X-RateLimit-", "X-RateLimi"}) {
    EXPECT_EQ(reply_headers({{name, "value"}}), "") << name;
  }
}

TEST(ReplyHeaders, WhatConnectionNamesIsForThisHopAlone) {
  EXPECT_EQ(reply_headers({{"Cache-Control", "no-store"}, {"Connection", "cache-control"}}), "");
}

TEST(ReplyHeaders, NoneThatHoldsTheBackendsToken) {
  const std::vector<Header> headers = {{"Cache-Control", "no-store"},
                                       {"Retry-After", "sk-secret"},
                                       {"X-RateLimit-Key", "key=sk-secret;x"}};
  EXPECT_EQ(reply_headers(headers, "sk-secret"), "Cache-Control: no-store\r\n");
  EXPECT_EQ(reply_headers(headers, ""),
            "Cache-Control: no-store\r\nRetry-After: sk-secret\r\n"
            "X-RateLimit-Key: key=sk-secret;x\r\n");
}

TEST(EventStream, ByMediaTypeAlone) {
  struct Case {
    const char* value;
    bool is_stream;
  };
  for (const Case& c : {
           Case{"text/event-stream", true},
           Case{"Text/Event-Stream", true},
           Case{"text/event-stream; charset=utf-8", true},
           Case{"text/event-stream \t;charset=utf-8", true},
           Case{"text/event-streams", false},
           Case{"text/plain; a=text/event-stream", false},
           Case{"application/json", false},
           Case{"", false},
           Case{";", false},
       }) {
    http::ResponseHead head;
    head.headers = {{"content-TYPE", c.value}};
    EXPECT_EQ(is_event_stream(head), c.is_stream) << c.value;
  }
  EXPECT_FALSE(is_event_stream(http::ResponseHead{}));
}

TEST(Encoded, ByAnyCodingButIdentity) {
  struct Case {
    std::vector<http::Header> headers;
    bool is_encoded;
  };
  for (const Case& c : {
           Case{{}, false},
           Case{{{"Content-Type", "gzip"}}, false},
           Case{{{"Content-Encoding", ""}}, false},
           Case{{{"Content-Encoding", "identity"}}, false},
           Case{{{"content-encoding", "Identity"}}, false},
           Case{{{"content-encoding", "gzip"}}, true},
           Case{{{"Content-Encoding", "identity, br"}}, true},
           Case{{{"Content-Encoding", "identity"}, {"Content-Encoding", "zstd"}}, true},
       }) {
    http::ResponseHead head;
    head.headers = c.headers;
    EXPECT_EQ(is_encoded(head), c.is_encoded) << (c.headers.empty() ? "" : c.headers.back().value);
  }
}

}  // namespace
}  // namespace llmproxy
