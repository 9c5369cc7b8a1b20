// Small on purpose: one request at a time per connection, bodies with a length only.
#include "cli/demo_backend.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <array>
#include <list>
#include <system_error>

#include "api/endpoint.h"
#include "http/chunked.h"
#include "http/head.h"
#include "net/buffer.h"
#include "net/socket.h"

namespace llmproxy {
namespace {

constexpr std::chrono::milliseconds kBetweenWords{30};
constexpr std::chrono::seconds kPatience{60};
constexpr size_t kRequestBytesMax = size_t{8} << 20;

constexpr std::array<std::string_view, 16> kWords = {
    "This",    " is",  " a",     " scripted", " answer,", " one", " word", " a",
    " token,", " and", " every", " token",    " of",      " it",  " is",   " billed."};

int64_t count_words(std::string_view text) {
  int64_t words = 0;
  bool is_inside = false;
  for (const char c : text) {
    const bool is_blank = c == ' ' || c == '\n' || c == '\t' || c == '\r';
    if (!is_blank && !is_inside) ++words;
    is_inside = !is_blank;
  }
  return words;
}

// Words of all message contents that are plain text.
int64_t count_prompt(const std::string& body) {
  simdjson::dom::parser parser;
  simdjson::dom::array messages;
  if (parser.parse(body)["messages"].get(messages) != simdjson::SUCCESS) return 0;
  int64_t words = 0;
  for (const simdjson::dom::element message : messages) {
    std::string_view content;
    if (message["content"].get(content) == simdjson::SUCCESS) words += count_words(content);
  }
  return words;
}

std::string usage_of(int64_t prompt) {
  const auto completion = static_cast<int64_t>(kWords.size());
  return fmt::format(R"({{"prompt_tokens":{},"completion_tokens":{},"total_tokens":{}}})", prompt,
                     completion, prompt + completion);
}

std::string event_of(const Call& call, std::string_view choices, std::string_view usage) {
  std::string event = fmt::format(
      R"(data: {{"id":"chatcmpl-demo","object":"chat.completion.chunk","created":0,"model":{},)"
      R"("choices":[{}])",
      quote_json(call.model), choices);
  if (!usage.empty()) event.append(R"(,"usage":)").append(usage);
  return event + "}\n\n";
}

std::string reply_of(const Call& call, int64_t prompt) {
  std::string text;
  for (const std::string_view word : kWords) text += word;
  const std::string body = fmt::format(
      R"({{"id":"chatcmpl-demo","object":"chat.completion","created":0,"model":{},"choices":[{{)"
      R"("index":0,"message":{{"role":"assistant","content":{}}},"finish_reason":"stop"}}],)"
      R"("usage":{}}})",
      quote_json(call.model), quote_json(text), usage_of(prompt));
  return fmt::format(
      "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
      body.size(), body);
}

class Connection {
 public:
  Connection(net::Loop& loop, int fd, net::BlockPool& blocks)
      : loop_(loop), socket(loop, fd), input_(blocks) {}

  net::Task<bool> serve();

 private:
  net::Task<bool> read_request(std::string& body);
  net::Task<bool> send(std::string text);
  net::Task<bool> send_chunk(std::string payload);
  net::Task<bool> stream(const Call& call, int64_t prompt);

  net::Loop& loop_;

 public:
  net::Socket socket;

 private:
  net::Buffer input_;
};

net::Task<bool> Connection::send(std::string text) {
  iovec part{text.data(), text.size()};
  co_return (co_await socket.write_all({&part, 1}, kPatience)).ok();
}

net::Task<bool> Connection::send_chunk(std::string payload) {
  std::array<char, http::kChunkHeadMax> head;
  std::string chunk(head.data(), http::write_chunk_head(head.data(), payload.size()));
  chunk.append(payload).append("\r\n");
  co_return co_await send(std::move(chunk));
}

net::Task<bool> Connection::read_request(std::string& body) {
  http::RequestHead head;
  for (;;) {
    if (!input_.empty()) {
      head.clear();
      const http::ParseResult parsed = http::parse_request_head(input_.bytes(), {}, head);
      if (parsed.state == http::Parse::kInvalid) co_return false;
      const size_t size = static_cast<size_t>(head.content_length.value_or(0));
      if (parsed.state == http::Parse::kDone && input_.size() >= parsed.consumed + size) {
        body = input_.bytes().substr(parsed.consumed, size);
        input_.consume(parsed.consumed + size);
        co_return true;
      }
    }
    if (!input_.make_room(kRequestBytesMax)) co_return false;
    const net::IoResult read =
        co_await socket.read_some(input_.tail(), input_.room(), loop_.now() + kPatience);
    input_.append(read.bytes);
    if (!read.ok()) co_return false;
  }
}

net::Task<bool> Connection::stream(const Call& call, int64_t prompt) {
  std::string head =
      "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
  if (!co_await send(std::move(head))) co_return false;
  for (const std::string_view word : kWords) {
    std::string choice = fmt::format(
        R"({{"index":0,"delta":{{"content":{}}},"finish_reason":null}})", quote_json(word));
    if (!co_await send_chunk(event_of(call, choice, ""))) co_return false;
    co_await net::Sleep(loop_, loop_.now() + kBetweenWords);
  }
  std::string last = event_of(call, R"({"index":0,"delta":{},"finish_reason":"stop"})", "");
  if (call.asks_usage) last += event_of(call, "", usage_of(prompt));
  last += "data: [DONE]\n\n";
  if (!co_await send_chunk(std::move(last))) co_return false;
  std::string end = "0\r\n\r\n";
  co_return co_await send(std::move(end));
}

net::Task<bool> Connection::serve() {
  std::string body;
  if (!co_await read_request(body)) co_return false;
  const Result<Call> call = kChatCompletions.read_call(body);
  if (!call.ok()) {
    std::string refusal = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    co_return co_await send(std::move(refusal));
  }
  const int64_t prompt = count_prompt(body);
  if (call->is_stream) co_return co_await stream(*call, prompt);
  co_return co_await send(reply_of(*call, prompt));
}

}  // namespace

struct DemoBackend::Connections {
  net::BlockPool blocks;
  std::list<Connection> open;

  net::Task<void> run(net::Loop& loop, int fd) {
    const auto connection = open.emplace(open.end(), loop, fd, blocks);
    while (co_await connection->serve()) {
    }
    open.erase(connection);
  }
};

DemoBackend::DemoBackend() : connections_(std::make_unique<Connections>()) {
  std::string error;
  const net::ListenSocket socket = net::ListenSocket::open("127.0.0.1", 0, error);
  if (socket.fd() < 0) throw std::runtime_error("demo backend: " + error);
  address_ = socket.address();
  listener_ = std::make_unique<net::Listener>(loop_, socket, *this);
  thread_ = std::thread([this] { loop_.run(); });
}

DemoBackend::~DemoBackend() {
  loop_.stop();
  thread_.join();
  listener_.reset();
  auto& open = connections_->open;
  for (auto next = open.begin(); next != open.end();) (next++)->socket.cancel();
}

void DemoBackend::on_accept(int fd) {
  net::spawn(connections_->run(loop_, fd));
}

}  // namespace llmproxy
