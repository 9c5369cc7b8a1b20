// Tables of request and response heads: each ambiguity named in RFC 9112 and in published smuggling
// attacks is one row. No sockets; what a caller does with a well-formed head is tested elsewhere.
#include "http/head.h"
#include "http/characters.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace llmproxy::http {
namespace {

using namespace std::string_literals;
using namespace std::string_view_literals;

constexpr HeadLimits kLimits{.head_bytes_max = 2048, .headers_max = 10, .target_bytes_max = 256};
constexpr int kAccepted = 0;

struct Case {
  const char* name;
  std::string_view bytes;
  int status;  // kAccepted, or the refusal's
};

// The verdict as one number, and what must hold of every verdict. `bytes` is copied to a block of
// its own size, so that AddressSanitizer sees a read beyond it.
template <class Head, class Parser>
int verdict(Parser parse, std::string_view bytes, const HeadLimits& limits, Head& head) {
  const std::vector<char> exact(bytes.begin(), bytes.end());
  const ParseResult result = parse({exact.data(), exact.size()}, limits, head);
  switch (result.state) {
    case Parse::kIncomplete:
      return -1;
    case Parse::kInvalid:
      EXPECT_FALSE(result.reason.empty());
      EXPECT_EQ(result.consumed, 0U);
      EXPECT_TRUE(head.headers.empty());
      return result.status;
    case Parse::kDone:
      EXPECT_LE(result.consumed, bytes.size());
      EXPECT_TRUE(bytes.substr(0, result.consumed).ends_with("\r\n\r\n"));
      return kAccepted;
  }
  return -2;
}

int request_verdict(std::string_view bytes, const HeadLimits& limits = kLimits) {
  RequestHead head;
  return verdict(parse_request_head, bytes, limits, head);
}

int response_verdict(std::string_view bytes, const HeadLimits& limits = kLimits) {
  ResponseHead head;
  return verdict(parse_response_head, bytes, limits, head);
}

// --- request lines
// -------------------------------------------------------------------------------------

#define REST " HTTP/1.1\r\nHost: a\r\n\r\n"

constexpr Case kRequestLines[] = {
    {"plain", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", kAccepted},
    {"one empty line before", "\r\nGET /" REST, kAccepted},
    {"two empty lines before", "\r\n\r\nGET /" REST, 400},
    {"bare LF before", "\nGET /" REST, 400},
    {"bare CR before", "\rGET /" REST, 400},
    {"blank before", " GET /" REST, 400},
    {"NUL before", "\0GET /" REST ""sv, 400},
    {"TLS hello", "\x16\x03\x01\x02\x00\x01"sv, 400},
    {"unknown method", "BREW /" REST, kAccepted},
    {"lower-case method", "get /" REST, kAccepted},
    {"method of token marks", "!#$%&'*+-.^_`|~09 /" REST, kAccepted},
    {"method of 32 bytes", "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345 /" REST, kAccepted},
    {"method of 33 bytes", "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456 /" REST, 400},
    {"method with colon", "GE:T /" REST, 400},
    {"method with obs-text", "GE\xc3\x89 /" REST, 400},
    {"method with NUL", "GE\0T /" REST ""sv, 400},
    {"no method", "/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"two blanks after the method", "GET  /" REST, 400},
    {"tab after the method", "GET\t/" REST, 400},
    {"two blanks before the version", "GET / " REST, 400},
    {"tab before the version", "GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"blank after the version", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400},
    {"blank in the target", "GET /a b" REST, 400},
    {"no target", "GET HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"empty target", "GET  HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"bare CR in the line", "GET /\rX HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"bare CR ends the line", "GET / HTTP/1.1\rHost: a\r\n\r\n", 400},
    {"two CR end the line", "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", 400},
    {"bare LF ends the line", "GET / HTTP/1.1\nHost: a\r\n\r\n", 400},
    {"bare LF in the place of CRLF", "GET / HTTP/1.1X\nHost: a\r\n\r\n", 400},
    {"all bare LF", "GET / HTTP/1.1\nHost: a\n\n", 400},
    {"query", "GET /a?b=c&d" REST, kAccepted},
    {"percent-encoding stays", "GET /%2e%2e/%00" REST, kAccepted},
    {"dots, slashes and backslash are the caller's", "GET //../.\\" REST, kAccepted},
    {"fragment", "GET /a#b" REST, 400},
    {"fragment after query", "GET /a?b#c" REST, 400},
    {"control in the target", "GET /\x01" REST, 400},
    {"DEL in the target", "GET /\x7f" REST, 400},
    {"NUL in the target", "GET /\0" REST ""sv, 400},
    {"non-ASCII in the target", "GET /\xc3\xa9" REST, 400},
    {"relative target", "GET a/b" REST, 400},
    {"asterisk for OPTIONS", "OPTIONS *" REST, kAccepted},
    {"asterisk for GET", "GET *" REST, 400},
    {"asterisk with more", "OPTIONS */a" REST, 400},
    {"absolute form", "GET http://b.example:80/c?d" REST, kAccepted},
    {"absolute form, https, any case", "POST HTTPS://b/c" REST, kAccepted},
    {"absolute form without path", "GET http://b" REST, kAccepted},
    {"absolute form, query without path", "GET http://b?c" REST, kAccepted},
    {"absolute form, IPv6", "GET http://[::1]:8080/" REST, kAccepted},
    {"absolute form, other scheme", "GET ftp://b/c" REST, 400},
    {"absolute form, no authority", "GET http:///c" REST, 400},
    {"absolute form, nothing", "GET http://" REST, 400},
    {"absolute form, one slash", "GET http:/b/c" REST, 400},
    {"absolute form, user", "GET http://u@b/c" REST, 400},
    {"absolute form, bad port", "GET http://b:x/c" REST, 400},
    {"absolute form, fragment", "GET http://b/#c" REST, 400},
    {"CONNECT", "CONNECT b.example:443" REST, kAccepted},
    {"CONNECT, IPv6", "CONNECT [::1]:443" REST, kAccepted},
    {"CONNECT without port", "CONNECT b.example" REST, 400},
    {"CONNECT, empty port", "CONNECT b.example:" REST, 400},
    {"CONNECT, port too large", "CONNECT b.example:65536" REST, 400},
    {"CONNECT with a path", "CONNECT /" REST, 400},
    {"CONNECT with absolute form", "CONNECT http://b:443/" REST, 400},
    {"authority form for GET", "GET b.example:443" REST, 400},
    {"HTTP/1.0 without Host", "GET / HTTP/1.0\r\n\r\n", kAccepted},
    {"HTTP/0.9", "GET /\r\n\r\n", 400},
    {"HTTP/0.9, spelt", "GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505},
    {"HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505},
    {"HTTP/2.0", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505},
    {"HTTP/2", "GET / HTTP/2\r\nHost: a\r\n\r\n", 400},
    {"h2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
    {"HTTP/1.10", "GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400},
    {"HTTP/01.1", "GET / HTTP/01.1\r\nHost: a\r\n\r\n", 400},
    {"HTTP/x.1", "GET / HTTP/x.1\r\nHost: a\r\n\r\n", 400},
    {"HTTP/1,1", "GET / HTTP/1,1\r\nHost: a\r\n\r\n", 400},
    {"HTTP/1.", "GET / HTTP/1.\r\nHost: a\r\n\r\n", 400},
    {"HTTP/+1.1", "GET / HTTP/+1.1\r\nHost: a\r\n\r\n", 400},
    {"HTTP /1.1", "GET / HTTP /1.1\r\nHost: a\r\n\r\n", 400},
    {"lower-case version", "GET / http/1.1\r\nHost: a\r\n\r\n", 400},
    {"other protocol", "GET / RTSP/1.0\r\nHost: a\r\n\r\n", 400},
};

// --- request fields: bytes after the request line, the empty line included
// -------------------------------

constexpr Case kRequestFields[] = {
    {"no header, so no Host", "\r\n", 400},
    {"no Host", "A: b\r\n\r\n", 400},
    {"two Hosts", "Host: a\r\nHost: b\r\n\r\n", 400},
    {"two equal Hosts", "Host: a\r\nhOST: a\r\n\r\n", 400},
    {"empty Host", "Host:\r\n\r\n", 400},
    {"Host with port", "Host: a.example:8080\r\n\r\n", kAccepted},
    {"Host with empty port", "Host: a:\r\n\r\n", kAccepted},
    {"Host, port too large", "Host: a:65536\r\n\r\n", 400},
    {"Host, port with sign", "Host: a:+80\r\n\r\n", 400},
    {"Host, two ports", "Host: a:80:80\r\n\r\n", 400},
    {"Host, port alone", "Host: :80\r\n\r\n", 400},
    {"Host, IPv4", "Host: 127.0.0.1:80\r\n\r\n", kAccepted},
    {"Host, IPv6", "Host: [::ffff:1.2.3.4]:80\r\n\r\n", kAccepted},
    {"Host, empty IPv6", "Host: []\r\n\r\n", 400},
    {"Host, open IPv6", "Host: [::1\r\n\r\n", 400},
    {"Host, text after IPv6", "Host: [::1]a\r\n\r\n", 400},
    {"Host, zone", "Host: [fe80::1%25a]\r\n\r\n", 400},
    {"Host with underscore", "Host: my_host\r\n\r\n", kAccepted},
    {"Host, percent-encoded", "Host: a%2D\r\n\r\n", kAccepted},
    {"Host, broken percent", "Host: a%2\r\n\r\n", 400},
    {"Host with user", "Host: u@a\r\n\r\n", 400},
    {"Host with path", "Host: a/b\r\n\r\n", 400},
    {"Host with query", "Host: a?b\r\n\r\n", 400},
    {"Host with blank", "Host: a b\r\n\r\n", 400},
    {"Host list", "Host: a, b\r\n\r\n", 400},
    {"Host with obs-text", "Host: \xc3\xa9\r\n\r\n", 400},
    {"Host with backslash", "Host: a\\b\r\n\r\n", 400},
    {"empty value", "Host: a\r\nX:\r\n\r\n", kAccepted},
    {"value of blanks", "Host: a\r\nX: \t \r\n\r\n", kAccepted},
    {"blanks around the value", "Host: \t a \t\r\n\r\n", kAccepted},
    {"no blank after the colon", "Host:a\r\n\r\n", kAccepted},
    {"obs-text in a value", "Host: a\r\nX: \x80\xc3\xa9\xff\r\n\r\n", kAccepted},
    {"tab in a value", "Host: a\r\nX: a\tb\r\n\r\n", kAccepted},
    {"NUL in a value", "Host: a\r\nX: a\0b\r\n\r\n"sv, 400},
    {"control in a value", "Host: a\r\nX: a\x08\r\n\r\n", 400},
    {"escape in a value", "Host: a\r\nX: \x1b[31m\r\n\r\n", 400},
    {"DEL in a value", "Host: a\r\nX: a\x7f\r\n\r\n", 400},
    {"bare CR in a value", "Host: a\r\nX: a\rb\r\n\r\n", 400},
    {"bare CR at the end of a value", "Host: a\r\nX: a\r\r\n\r\n", 400},
    {"bare CR at the start of a line", "Host: a\r\n\rX: a\r\n\r\n", 400},
    {"bare CR line", "Host: a\r\n\r\r\n\r\n", 400},
    {"bare LF in a value", "Host: a\r\nX: a\nB: c\r\n\r\n", 400},
    {"bare LF ends the head", "Host: a\r\n\n", 400},
    {"LF, then CRLF", "Host: a\n\r\n", 400},
    {"folded with blank", "Host: a\r\nX: a\r\n b\r\n\r\n", 400},
    {"folded with tab", "Host: a\r\nX: a\r\n\tb\r\n\r\n", 400},
    {"folded before the first header", " X: a\r\nHost: a\r\n\r\n", 400},
    {"folded empty line", "Host: a\r\n \r\n\r\n", 400},
    {"empty name", "Host: a\r\n: b\r\n\r\n", 400},
    {"blank before the colon", "Host: a\r\nX : b\r\n\r\n", 400},
    {"tab before the colon", "Host: a\r\nX\t: b\r\n\r\n", 400},
    {"blank in a name", "Host: a\r\nX Y: b\r\n\r\n", 400},
    {"no colon", "Host: a\r\nX\r\n\r\n", 400},
    {"NUL in a name", "Host: a\r\nX\0: b\r\n\r\n"sv, 400},
    {"control in a name", "Host: a\r\nX\x01: b\r\n\r\n", 400},
    {"obs-text in a name", "Host: a\r\nX\xc3\xa9: b\r\n\r\n", 400},
    {"separator in a name", "Host: a\r\nX(Y): b\r\n\r\n", 400},
    {"name of token marks", "Host: a\r\n!#$%&'*+-.^_`|~09: b\r\n\r\n", kAccepted},
    {"as many headers as allowed",
     "Host: a\r\n1:\r\n2:\r\n3:\r\n4:\r\n5:\r\n6:\r\n7:\r\n8:\r\n9:\r\n\r\n", kAccepted},
    {"one header too many",
     "Host: a\r\n1:\r\n2:\r\n3:\r\n4:\r\n5:\r\n6:\r\n7:\r\n8:\r\n9:\r\n10:\r\n\r\n", 431},
};

// --- request framing: bytes after "Host: a"
// --------------------------------------------------------------

constexpr Case kRequestFraming[] = {
    {"length", "Content-Length: 5\r\n\r\n", kAccepted},
    {"length 0", "Content-Length: 0\r\n\r\n", kAccepted},
    {"length, odd case", "cONTENT-lENGTH: 5\r\n\r\n", kAccepted},
    {"length with blanks around", "Content-Length: \t5 \r\n\r\n", kAccepted},
    {"padded length", "Content-Length: 000000000000000005\r\n\r\n", kAccepted},
    {"padded length of 19 digits", "Content-Length: 0000000000000000005\r\n\r\n", 400},
    {"length of 19 digits", "Content-Length: 9999999999999999999\r\n\r\n", kAccepted},
    {"length of 20 digits", "Content-Length: 10000000000000000000\r\n\r\n", 400},
    {"length 2^64", "Content-Length: 18446744073709551616\r\n\r\n", 400},
    {"length 2^64 + 5", "Content-Length: 18446744073709551621\r\n\r\n", 400},
    {"empty length", "Content-Length:\r\n\r\n", 400},
    {"blank length", "Content-Length: \t\r\n\r\n", 400},
    {"length with plus", "Content-Length: +5\r\n\r\n", 400},
    {"negative length", "Content-Length: -5\r\n\r\n", 400},
    {"hexadecimal length", "Content-Length: 0x5\r\n\r\n", 400},
    {"length with letters", "Content-Length: 5a\r\n\r\n", 400},
    {"length with underscore", "Content-Length: 1_0\r\n\r\n", 400},
    {"length with point", "Content-Length: 5.0\r\n\r\n", 400},
    {"length with exponent", "Content-Length: 1e1\r\n\r\n", 400},
    {"length with blank inside", "Content-Length: 1 0\r\n\r\n", 400},
    {"quoted length", "Content-Length: \"5\"\r\n\r\n", 400},
    {"length in other digits", "Content-Length: \xd9\xa5\r\n\r\n", 400},
    {"length list", "Content-Length: 5, 5\r\n\r\n", 400},
    {"length list of one", "Content-Length: 5,\r\n\r\n", 400},
    {"two lengths", "Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400},
    {"two equal lengths", "Content-Length: 5\r\nContent-Length: 5\r\n\r\n", 400},
    {"two lengths, one empty", "Content-Length: 5\r\nContent-Length:\r\n\r\n", 400},
    {"length and blank before the colon", "Content-Length : 5\r\n\r\n", 400},
    {"another name", "Content_Length: x\r\n\r\n", kAccepted},
    {"chunked", "Transfer-Encoding: chunked\r\n\r\n", kAccepted},
    {"chunked, odd case", "tRANSFER-eNCODING: cHUNKED\r\n\r\n", kAccepted},
    {"chunked with blanks around", "Transfer-Encoding: \t chunked\t \r\n\r\n", kAccepted},
    {"chunked and length", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", 400},
    {"length and chunked", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
    {"length 0 and chunked", "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
    {"bad length and chunked", "Content-Length: x\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
    {"chunked twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
    {"chunked listed twice", "Transfer-Encoding: chunked, chunked\r\n\r\n", 400},
    {"chunked and identity", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
     400},
    {"identity and chunked", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n",
     400},
    {"identity", "Transfer-Encoding: identity\r\n\r\n", 400},
    {"gzip", "Transfer-Encoding: gzip\r\n\r\n", 400},
    {"gzip, chunked", "Transfer-Encoding: gzip, chunked\r\n\r\n", 400},
    {"chunked, gzip", "Transfer-Encoding: chunked, gzip\r\n\r\n", 400},
    {"empty coding", "Transfer-Encoding:\r\n\r\n", 400},
    {"comma and chunked", "Transfer-Encoding: ,chunked\r\n\r\n", 400},
    {"chunked and comma", "Transfer-Encoding: chunked,\r\n\r\n", 400},
    {"chunked with parameter", "Transfer-Encoding: chunked;a=b\r\n\r\n", 400},
    {"quoted chunked", "Transfer-Encoding: \"chunked\"\r\n\r\n", 400},
    {"xchunked", "Transfer-Encoding: xchunked\r\n\r\n", 400},
    {"chunke", "Transfer-Encoding: chunke\r\n\r\n", 400},
    {"chunked with vertical tab",
     "Transfer-Encoding: \x0b"
     "chunked\r\n\r\n",
     400},
    {"chunked with form feed", "Transfer-Encoding: chunked\x0c\r\n\r\n", 400},
    {"chunked with no-break space",
     "Transfer-Encoding: \xa0"
     "chunked\r\n\r\n",
     400},
    {"chunked with NUL", "Transfer-Encoding: chunked\0\r\n\r\n"sv, 400},
    {"chunked with bare CR", "Transfer-Encoding: chunked\rX\r\n\r\n", 400},
    {"chunked, folded", "Transfer-Encoding:\r\n chunked\r\n\r\n", 400},
    {"chunked, blank before the colon", "Transfer-Encoding : chunked\r\n\r\n", 400},
    {"chunked, blank before the name", " Transfer-Encoding: chunked\r\n\r\n", 400},
    {"chunked behind a bare LF", "X: y\nTransfer-Encoding: chunked\r\n\r\n", 400},
    {"chunked behind a bare CR", "X: y\rTransfer-Encoding: chunked\r\n\r\n", 400},
    {"continue", "Expect: 100-continue\r\n\r\n", kAccepted},
    {"continue, odd case", "eXPECT: 100-Continue\r\n\r\n", kAccepted},
    {"other expectation", "Expect: 200-ok\r\n\r\n", 417},
    {"empty expectation", "Expect:\r\n\r\n", 417},
    {"expectation list", "Expect: 100-continue, x\r\n\r\n", 417},
    {"two expectations", "Expect: 100-continue\r\nExpect: 100-continue\r\n\r\n", 417},
    {"other expectation, then continue", "Expect: x\r\nExpect: 100-continue\r\n\r\n", 417},
    {"bad framing beats a bad expectation", "Expect: x\r\nContent-Length: x\r\n\r\n", 400},
    {"Upgrade", "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n", kAccepted},
};

TEST(RequestHead, lines) {
  for (const Case& c : kRequestLines) EXPECT_EQ(request_verdict(c.bytes), c.status) << c.name;
}

TEST(RequestHead, fields) {
  for (const Case& c : kRequestFields) {
    const std::string bytes = "POST / HTTP/1.1\r\n" + std::string(c.bytes);
    EXPECT_EQ(request_verdict(bytes), c.status) << c.name;
  }
}

TEST(RequestHead, framing) {
  for (const Case& c : kRequestFraming) {
    const std::string bytes = "POST / HTTP/1.1\r\nHost: a\r\n" + std::string(c.bytes);
    EXPECT_EQ(request_verdict(bytes), c.status) << c.name;
  }
}

TEST(RequestHead, transfer_encoding_in_http_1_0_is_refused) {
  EXPECT_EQ(request_verdict("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
  EXPECT_EQ(request_verdict("POST / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"), 400);
  EXPECT_EQ(request_verdict("POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\n"), kAccepted);
}

// What is cut short is incomplete or already refused, never done; what follows the head changes
// nothing.
template <class Head, class Parser>
void expect_stable(Parser parse, const char* name, const std::string& bytes) {
  Head head;
  const int whole = verdict(parse, bytes, kLimits, head);
  ASSERT_NE(whole, -1) << name;
  const ParseResult result = parse(bytes, kLimits, head);
  for (size_t cut = 0; cut < bytes.size(); ++cut) {
    const bool has_end = whole == kAccepted && cut >= result.consumed;
    const int got = verdict(parse, std::string_view(bytes).substr(0, cut), kLimits, head);
    if (has_end) {
      EXPECT_EQ(got, kAccepted) << name << " cut at " << cut;
    } else if (got != -1) {
      EXPECT_EQ(got, whole) << name << " cut at " << cut;
      EXPECT_NE(got, kAccepted) << name << " cut at " << cut;
    }
  }
  EXPECT_EQ(verdict(parse, bytes + "\0\r\n\nGET"s, kLimits, head), whole) << name;
}

TEST(RequestHead, every_cut_of_every_case) {
  for (const Case& c : kRequestLines) {
    // Refused at its first byte, it has no end.
    expect_stable<RequestHead>(parse_request_head, c.name, std::string(c.bytes));
  }
  for (const Case& c : kRequestFields) {
    expect_stable<RequestHead>(parse_request_head, c.name,
                               "POST / HTTP/1.1\r\n" + std::string(c.bytes));
  }
  for (const Case& c : kRequestFraming) {
    expect_stable<RequestHead>(parse_request_head, c.name,
                               "POST / HTTP/1.1\r\nHost: a\r\n" + std::string(c.bytes));
  }
}

TEST(RequestHead, refused_before_its_end) {
  constexpr Case kCases[] = {
      {"nothing", "", -1},
      {"CR", "\r", -1},
      {"CRLF", "\r\n", -1},
      {"method", "GET", -1},
      {"line", "GET / HTTP/1.1\r\n", -1},
      {"all but the last byte", "GET / HTTP/1.1\r\nHost: a\r\n\r", -1},
      {"no token", "\x80", 400},
      {"blank", " ", 400},
      {"second empty line", "\r\n\r", 400},
      {"bare LF after the line", "GET / HTTP/1.1\n", 400},
      {"bare LF after a header", "GET / HTTP/1.1\r\nHost: a\n", 400},
      {"bare LF as the empty line", "GET / HTTP/1.1\r\nHost: a\r\n\n", 400},
      {"HTTP/0.9 sends no more", "GET /\r\n", 400},
      {"HTTP/2.0", "PRI * HTTP/2.0\r\n", 505},
  };
  for (const Case& c : kCases) EXPECT_EQ(request_verdict(c.bytes), c.status) << c.name;
}

TEST(RequestHead, values) {
  const std::string bytes =
      "\r\nPOST /v1/chat/completions?a=b?c HTTP/1.1\r\nhOST:\tx:80 \r\nX-Two:  a b\t\r\nx-two: "
      "c\r\n"
      "Content-Length: 18\r\nConnection: keep-alive\r\nExpect: 100-Continue\r\nEmpty:\r\n\r\nbody";
  RequestHead head;
  const ParseResult result = parse_request_head(bytes, kLimits, head);
  ASSERT_EQ(result.state, Parse::kDone);
  EXPECT_EQ(result.consumed, bytes.size() - 4);
  EXPECT_EQ(head.method, "POST");
  EXPECT_EQ(head.target, "/v1/chat/completions?a=b?c");
  EXPECT_EQ(head.path, "/v1/chat/completions");
  EXPECT_EQ(head.minor_version, 1);
  ASSERT_EQ(head.headers.size(), 7U);
  EXPECT_EQ(head.headers[0].name, "hOST");
  EXPECT_EQ(head.headers[0].value, "x:80");
  EXPECT_EQ(head.headers[1].value, "a b");
  EXPECT_EQ(head.headers[6].value, "");
  EXPECT_EQ(head.find("x-TWO"), &head.headers[1]);
  EXPECT_EQ(head.find("none"), nullptr);
  EXPECT_EQ(head.count("X-Two"), 2U);
  EXPECT_EQ(head.content_length, 18U);
  EXPECT_FALSE(head.is_chunked);
  EXPECT_TRUE(head.keep_alive);
  EXPECT_TRUE(head.expects_continue);
  EXPECT_FALSE(head.wants_upgrade);
}

TEST(RequestHead, target_forms) {
  struct {
    const char *line, *path;
  } constexpr kCases[] = {
      {"GET /", "/"},
      {"GET /?", "/"},
      {"GET /a%2Fb?c/d?e", "/a%2Fb"},
      {"GET http://b/c?d", "/c"},
      {"GET http://b", "/"},
      {"GET HTTPS://b:1?d", "/"},
      {"OPTIONS *", ""},
      {"CONNECT b:1", ""},
  };
  for (const auto& c : kCases) {
    RequestHead head;
    const std::string bytes = std::string(c.line) + REST;
    ASSERT_EQ(parse_request_head(bytes, kLimits, head).state, Parse::kDone) << c.line;
    EXPECT_EQ(head.path, c.path) << c.line;
  }
}

TEST(RequestHead, connection) {
  struct {
    const char* fields;
    bool keep_alive_1_0, keep_alive_1_1, wants_upgrade;
  } constexpr kCases[] = {
      {"", false, true, false},
      {"Connection: close\r\n", false, false, false},
      {"connection: CLOSE\r\n", false, false, false},
      {"Connection: keep-alive\r\n", true, true, false},
      {"Connection: te, Keep-Alive\r\n", true, true, false},
      {"Connection: keep-alive, close\r\n", false, false, false},
      {"Connection: keep-alive\r\nConnection: ,close ,\r\n", false, false, false},
      {"Connection: close\r\nConnection: keep-alive\r\n", false, false, false},
      {"Connection: closed\r\n", false, true, false},
      {"Connection: Upgrade\r\nUpgrade: h2c\r\n", false, true, true},
  };
  for (const auto& c : kCases) {
    for (const int minor : {0, 1}) {
      RequestHead head;
      const std::string bytes =
          "GET / HTTP/1." + std::to_string(minor) + "\r\nHost: a\r\n" + c.fields + "\r\n";
      ASSERT_EQ(parse_request_head(bytes, kLimits, head).state, Parse::kDone) << bytes;
      EXPECT_EQ(head.minor_version, minor);
      EXPECT_EQ(head.keep_alive, minor == 0 ? c.keep_alive_1_0 : c.keep_alive_1_1) << bytes;
      EXPECT_EQ(head.wants_upgrade, c.wants_upgrade) << bytes;
    }
  }
}

TEST(RequestHead, http_1_0_expects_nothing) {
  RequestHead head;
  const ParseResult result =
      parse_request_head("POST / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n", kLimits, head);
  ASSERT_EQ(result.state, Parse::kDone);
  EXPECT_FALSE(head.expects_continue);
}

TEST(RequestHead, limit_of_the_target) {
  const auto request = [](size_t target) { return "GET /" + std::string(target - 1, 'a') + REST; };
  EXPECT_EQ(request_verdict(request(kLimits.target_bytes_max)), kAccepted);
  EXPECT_EQ(request_verdict(request(kLimits.target_bytes_max + 1)), 414);
  EXPECT_EQ(request_verdict(request(kLimits.target_bytes_max * 4)), 414);
  // Without an end of the line: refused as soon as no method and version could make up for it.
  const std::string endless = request(4 * kLimits.target_bytes_max);
  const size_t line_max = kLimits.target_bytes_max + 32 + 1 + 1 + 8 + 2;
  EXPECT_EQ(request_verdict(std::string_view(endless).substr(0, line_max - 1)), -1);
  EXPECT_EQ(request_verdict(std::string_view(endless).substr(0, line_max)), 414);
}

TEST(RequestHead, limit_of_the_head) {
  const std::string start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
  const auto request = [&start](size_t size) {
    return start + std::string(size - start.size() - 4, 'a') + "\r\n\r\n";
  };
  const size_t max = kLimits.head_bytes_max;
  EXPECT_EQ(request_verdict(request(max)), kAccepted);
  EXPECT_EQ(request_verdict(request(max) + std::string(max, 'b')), kAccepted);
  EXPECT_EQ(request_verdict(request(max + 1)), 431);
  EXPECT_EQ(request_verdict(request(max + 1).substr(0, max - 1)), -1);
  EXPECT_EQ(request_verdict(request(max + 1).substr(0, max)), 431);
  // A head smaller than a target: the head's bound is told.
  const HeadLimits small{.head_bytes_max = 64, .headers_max = 10, .target_bytes_max = 256};
  EXPECT_EQ(request_verdict("GET /" + std::string(58, 'a'), small), -1);
  EXPECT_EQ(request_verdict("GET /" + std::string(59, 'a'), small), 431);
}

TEST(RequestHead, leaves_nothing_of_the_last_one) {
  RequestHead head;
  ASSERT_EQ(parse_request_head("POST http://a/b?c HTTP/1.0\r\nConnection: keep-alive\r\n"
                               "Upgrade: x\r\nContent-Length: 1\r\n\r\n",
                               kLimits, head)
                .state,
            Parse::kDone);
  const size_t capacity = head.headers.capacity();
  const Header* const room = head.headers.data();
  ASSERT_EQ(parse_request_head("GET", kLimits, head).state, Parse::kIncomplete);
  EXPECT_TRUE(head.method.empty() && head.target.empty() && head.path.empty());
  EXPECT_TRUE(head.headers.empty() && !head.content_length && !head.wants_upgrade);
  EXPECT_EQ(head.headers.capacity(), capacity);
  ASSERT_EQ(parse_request_head("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n", kLimits, head).state,
            Parse::kDone);
  EXPECT_EQ(head.path, "/");
  EXPECT_EQ(head.headers.size(), 2U);
  EXPECT_EQ(head.headers.capacity(), capacity);  // and nothing was allocated
  EXPECT_EQ(head.headers.data(), room);
}

// --- responses
// -------------------------------------------------------------------------------------------

constexpr Case kResponses[] = {
    {"plain", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", kAccepted},
    {"no header", "HTTP/1.1 200 OK\r\n\r\n", kAccepted},
    {"HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\n", kAccepted},
    {"empty reason", "HTTP/1.1 200 \r\n\r\n", kAccepted},
    {"no reason, no blank", "HTTP/1.1 200\r\n\r\n", kAccepted},
    {"long reason with obs-text", "HTTP/1.1 404 Not\tthere \xc3\xa9\r\n\r\n", kAccepted},
    {"switching protocols", "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", kAccepted},
    {"599", "HTTP/1.1 599 X\r\n\r\n", kAccepted},
    {"099", "HTTP/1.1 099 X\r\n\r\n", 502},
    {"600", "HTTP/1.1 600 X\r\n\r\n", 502},
    {"999", "HTTP/1.1 999 X\r\n\r\n", 502},
    {"two digits", "HTTP/1.1 20 OK\r\n\r\n", 502},
    {"four digits", "HTTP/1.1 2000 OK\r\n\r\n", 502},
    {"signed status", "HTTP/1.1 +20 OK\r\n\r\n", 502},
    {"letters in the status", "HTTP/1.1 2O0 OK\r\n\r\n", 502},
    {"no status", "HTTP/1.1\r\n\r\n", 502},
    {"no status, blank", "HTTP/1.1 \r\n\r\n", 502},
    {"two blanks", "HTTP/1.1  200 OK\r\n\r\n", 502},
    {"tab", "HTTP/1.1\t200 OK\r\n\r\n", 502},
    {"tab before the reason", "HTTP/1.1 200\tOK\r\n\r\n", 502},
    {"control in the reason", "HTTP/1.1 200 O\x01K\r\n\r\n", 502},
    {"NUL in the reason", "HTTP/1.1 200 O\0K\r\n\r\n"sv, 502},
    {"bare CR in the reason", "HTTP/1.1 200 O\rK\r\n\r\n", 502},
    {"bare CR after the line", "HTTP/1.1 200 OK\r\r\n\r\n", 502},
    {"bare LF", "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n", 502},
    {"all bare LF", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", 502},
    {"HTTP/2.0", "HTTP/2.0 200 OK\r\n\r\n", 502},
    {"HTTP/1.2", "HTTP/1.2 200 OK\r\n\r\n", 502},
    {"HTTP/1.10", "HTTP/1.10 200 OK\r\n\r\n", 502},
    {"HTTP/1", "HTTP/1 200 OK\r\n\r\n", 502},
    {"lower case", "http/1.1 200 OK\r\n\r\n", 502},
    {"ICY", "ICY 200 OK\r\n\r\n", 502},
    {"empty line before", "\r\nHTTP/1.1 200 OK\r\n\r\n", 502},
    {"blank before", " HTTP/1.1 200 OK\r\n\r\n", 502},
    {"body without head", "{\"error\":1}", 502},
    {"folded", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", 502},
    {"blank before the colon", "HTTP/1.1 200 OK\r\nX : a\r\n\r\n", 502},
    {"no colon", "HTTP/1.1 200 OK\r\nX\r\n\r\n", 502},
    {"empty name", "HTTP/1.1 200 OK\r\n: a\r\n\r\n", 502},
    {"NUL in a value", "HTTP/1.1 200 OK\r\nX: \0\r\n\r\n"sv, 502},
    {"obs-text in a value", "HTTP/1.1 200 OK\r\nX: \xff\r\n\r\n", kAccepted},
    {"obs-text in a name", "HTTP/1.1 200 OK\r\nX\xff: a\r\n\r\n", 502},
    {"length and chunked",
     "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 502},
    {"two equal lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", 502},
    {"length list", "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n", 502},
    {"negative length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", 502},
    {"length 2^64", "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n", 502},
    {"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", kAccepted},
    {"chunked in 1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 502},
    {"gzip, chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 502},
    {"chunked twice",
     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 502},
    {"204", "HTTP/1.1 204 X\r\n\r\n", kAccepted},
    {"204 with length 0", "HTTP/1.1 204 X\r\nContent-Length: 0\r\n\r\n", kAccepted},
    {"204 with length", "HTTP/1.1 204 X\r\nContent-Length: 5\r\n\r\n", 502},
    {"204, chunked", "HTTP/1.1 204 X\r\nTransfer-Encoding: chunked\r\n\r\n", 502},
    {"100 with length", "HTTP/1.1 100 X\r\nContent-Length: 5\r\n\r\n", 502},
    {"304 with length", "HTTP/1.1 304 X\r\nContent-Length: 5\r\n\r\n", kAccepted},
    {"two Hosts mean nothing", "HTTP/1.1 200 OK\r\nHost: a\r\nHost: /\r\n\r\n", kAccepted},
    {"as many headers as allowed",
     "HTTP/1.1 200 OK\r\n0:\r\n1:\r\n2:\r\n3:\r\n4:\r\n5:\r\n6:\r\n7:\r\n8:\r\n9:\r\n\r\n",
     kAccepted},
    {"one header too many",
     "HTTP/1.1 200 OK\r\n0:\r\n1:\r\n2:\r\n3:\r\n4:\r\n5:\r\n6:\r\n7:\r\n8:\r\n9:\r\n10:\r\n\r\n",
     502},
};

TEST(ResponseHead, table) {
  for (const Case& c : kResponses) EXPECT_EQ(response_verdict(c.bytes), c.status) << c.name;
}

TEST(ResponseHead, every_cut_of_every_case) {
  for (const Case& c : kResponses) {
    expect_stable<ResponseHead>(parse_response_head, c.name, std::string(c.bytes));
  }
}

TEST(ResponseHead, refused_before_its_end) {
  constexpr Case kCases[] = {
      {"nothing", "", -1},
      {"start", "HTTP/1", -1},
      {"line", "HTTP/1.1 200 OK\r\n", -1},
      {"other protocol", "SSH-2.0", 502},
      {"other protocol, one byte", "\x15", 502},
      {"bare LF", "HTTP/1.1 200 OK\n", 502},
  };
  for (const Case& c : kCases) EXPECT_EQ(response_verdict(c.bytes), c.status) << c.name;
  const std::string endless = "HTTP/1.1 200 " + std::string(kLimits.head_bytes_max, 'a');
  EXPECT_EQ(response_verdict(endless.substr(0, kLimits.head_bytes_max - 1)), -1);
  EXPECT_EQ(response_verdict(endless), 502);
}

TEST(ResponseHead, values) {
  const std::string bytes =
      "HTTP/1.1 429 Too Many\r\nContent-Type: application/json\r\nretry-after: 5 \r\n"
      "Content-Length: 12\r\n\r\nbody";
  ResponseHead head;
  const ParseResult result = parse_response_head(bytes, kLimits, head);
  ASSERT_EQ(result.state, Parse::kDone);
  EXPECT_EQ(result.consumed, bytes.size() - 4);
  EXPECT_EQ(head.status, 429);
  EXPECT_EQ(head.minor_version, 1);
  ASSERT_EQ(head.headers.size(), 3U);
  ASSERT_NE(head.find("Retry-After"), nullptr);
  EXPECT_EQ(head.find("Retry-After")->value, "5");
  EXPECT_EQ(head.find("none"), nullptr);
  EXPECT_EQ(head.content_length, 12U);
  EXPECT_FALSE(head.is_chunked);
  EXPECT_TRUE(head.keep_alive);
  EXPECT_FALSE(head.has_no_body);
}

TEST(ResponseHead, body_and_connection) {
  struct {
    const char* head;
    bool has_no_body, is_chunked, keep_alive;
  } constexpr kCases[] = {
      {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", false, false, true},
      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false, true, true},
      {"HTTP/1.1 200 OK\r\n\r\n", false, false, false},  // the body ends with the connection
      {"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\n", false, false, false},
      {"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n", false, false, false},
      {"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", false, false, false},
      {"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\n", false, false,
       true},
      {"HTTP/1.1 100 Continue\r\n\r\n", true, false, true},
      {"HTTP/1.1 101 X\r\n\r\n", true, false, true},
      {"HTTP/1.1 204 X\r\n\r\n", true, false, true},
      {"HTTP/1.1 304 X\r\nContent-Length: 5\r\n\r\n", true, false, true},
      {"HTTP/1.1 205 X\r\nContent-Length: 0\r\n\r\n", false, false, true},
  };
  for (const auto& c : kCases) {
    ResponseHead head;
    ASSERT_EQ(parse_response_head(c.head, kLimits, head).state, Parse::kDone) << c.head;
    EXPECT_EQ(head.has_no_body, c.has_no_body) << c.head;
    EXPECT_EQ(head.is_chunked, c.is_chunked) << c.head;
    EXPECT_EQ(head.keep_alive, c.keep_alive) << c.head;
  }
}

// --- small functions
// -------------------------------------------------------------------------------------

TEST(Header, names_in_any_case) {
  EXPECT_TRUE(equals_ignoring_case("Content-Length", "cONTENT-lENGTH"));
  EXPECT_TRUE(equals_ignoring_case("", ""));
  EXPECT_FALSE(equals_ignoring_case("a", "ab"));
  EXPECT_FALSE(equals_ignoring_case("@", "`"));  // neighbours of the letters
  EXPECT_FALSE(equals_ignoring_case("[", "{"));
  EXPECT_FALSE(equals_ignoring_case("\xc9", "\xe9"));  // ASCII alone
  EXPECT_FALSE(equals_ignoring_case("\r", "-"));
}

// Names are compared many bytes at once: each byte at each place, beside each other byte.
TEST(Header, names_in_any_case_wherever_they_differ) {
  constexpr size_t kLongest = 19;
  for (size_t size = 1; size <= kLongest; ++size) {
    for (size_t at = 0; at < size; ++at) {
      std::string a(size, 'x'), b(size, 'X');
      for (int x = 0; x < 256; ++x) {
        for (int y = 0; y < 256; ++y) {
          a[at] = static_cast<char>(x);
          b[at] = static_cast<char>(y);
          ASSERT_EQ(equals_ignoring_case(a, b), to_lower(a[at]) == to_lower(b[at]))
              << x << " and " << y << " at " << at << " of " << size;
        }
      }
    }
  }
}

TEST(Header, list_members) {
  struct {
    const char *value, *token;
    bool is_member;
  } constexpr kCases[] = {
      {"close", "close", true},     {"a, CLOSE ,b", "close", true}, {",,close", "close", true},
      {"\tclose\t", "close", true}, {"closed", "close", false},     {"un close", "close", false},
      {"", "close", false},         {"a;close", "close", false},    {"a,b", "c", false},
  };
  for (const auto& c : kCases) {
    EXPECT_EQ(has_list_member(c.value, c.token), c.is_member) << c.value;
  }
}

}  // namespace
}  // namespace llmproxy::http
