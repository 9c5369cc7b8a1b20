// str() of a value, and repr() of what is in a document or an array.
#include "db/python_text.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <string_view>

#include "base/clock.h"
#include "db/mongo_document.h"

namespace llmproxy {
namespace {

constexpr int kDepthMax = 100;  // as deep as MongoDB nests documents

std::string show(const bson_iter_t& value, int depth);

std::string show_double(double value) {
  if (std::isnan(value)) return "nan";
  std::string text = fmt::format("{}", value);  // shortest that reads back the same, as repr() does
  if (text.find_first_of(".ein") == std::string::npos) text += ".0";
  return text;
}

// In the quotes that repr() chooses. Of text, what is no ASCII stays as it is.
std::string quote(std::string_view all, bool is_text) {
  const bool has_single = all.find('\'') != std::string_view::npos;
  const char quote = has_single && all.find('"') == std::string_view::npos ? '"' : '\'';
  std::string text(1, quote);
  for (const char c : all) {
    const auto byte = static_cast<uint8_t>(c);
    if (c == '\\' || c == quote) {
      text += {'\\', c};
    } else if (c == '\t' || c == '\n' || c == '\r') {
      text += {'\\', c == '\t' ? 't' : c == '\n' ? 'n' : 'r'};
    } else if (byte < 0x20 || byte == 0x7f || (byte > 0x7f && !is_text)) {
      text += fmt::format("\\x{:02x}", byte);
    } else {
      text += c;
    }
  }
  return text + quote;
}

std::string_view text_of(const bson_iter_t& value) {
  uint32_t size = 0;
  const char* text = bson_iter_utf8(&value, &size);
  return {text, size};
}

struct Binary {
  explicit Binary(const bson_iter_t& value) {
    uint32_t size = 0;
    const uint8_t* data = nullptr;
    bson_iter_binary(&value, &subtype, &size, &data);
    shown = "b" + quote({reinterpret_cast<const char*>(data), size}, false);
  }
  bson_subtype_t subtype = BSON_SUBTYPE_BINARY;
  std::string shown;
};

// 2026-11-23 14:05:09, and .123000 where there are milliseconds.
std::string date_text(int64_t time) {
  std::string text = format_utc(time);
  text[10] = ' ';
  text.pop_back();
  return text.ends_with(".000") ? text.substr(0, 19) : text + "000";
}

// datetime.datetime(2026, 11, 23, 14, 5, 9, 123000), without zeros at the end.
std::string show_date(int64_t time) {
  using std::chrono::floor;
  const std::chrono::sys_time<Milliseconds> at{Milliseconds(time)};
  const auto day = floor<std::chrono::days>(at);
  const std::chrono::year_month_day date(day);
  const std::chrono::hh_mm_ss clock(at - day);
  std::string text =
      fmt::format("datetime.datetime({}, {}, {}, {}, {}", static_cast<int>(date.year()),
                  static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
                  clock.hours().count(), clock.minutes().count());
  const auto seconds = clock.seconds().count(), milliseconds = clock.subseconds().count();
  if (seconds != 0 || milliseconds != 0) text += fmt::format(", {}", seconds);
  if (milliseconds != 0) text += fmt::format(", {}", milliseconds * 1000);
  return text + ")";
}

std::string decimal_text(const bson_iter_t& value) {
  bson_decimal128_t decimal;
  char text[BSON_DECIMAL128_STRING];
  if (!bson_iter_decimal128(&value, &decimal)) return "";
  bson_decimal128_to_string(&decimal, text);
  return text;
}

std::string oid_text(const bson_iter_t& value) {
  char text[25];
  bson_oid_to_string(bson_iter_oid(&value), text);
  return text;
}

std::string show_timestamp(const bson_iter_t& value) {
  uint32_t seconds = 0, count = 0;
  bson_iter_timestamp(&value, &seconds, &count);
  return fmt::format("Timestamp({}, {})", seconds, count);
}

std::string extended_json(const bson_iter_t& value) {
  BsonDocument wrapped;
  bson_append_iter(wrapped.get(), "", 0, &value);
  size_t size = 0;
  char* json = bson_as_relaxed_extended_json(wrapped.get(), &size);
  if (json == nullptr) return "";
  std::string text(json, size);
  bson_free(json);
  constexpr std::string_view kHead = R"({ "" : )", kTail = " }";
  if (!text.starts_with(kHead) || !text.ends_with(kTail)) return text;
  return text.substr(kHead.size(), text.size() - kHead.size() - kTail.size());
}

std::string show_members(const bson_iter_t& value, int depth) {
  const bool is_array = BSON_ITER_HOLDS_ARRAY(&value);
  std::string text(1, is_array ? '[' : '{');
  bson_iter_t member;
  const bool is_whole = bson_iter_recurse(&value, &member);
  for (const char* separator = ""; is_whole && bson_iter_next(&member); separator = ", ") {
    text += separator;
    if (!is_array) text += quote(bson_iter_key(&member), true) + ": ";
    text += show(member, depth + 1);
  }
  return text + (is_array ? ']' : '}');
}

// As repr() does.
std::string show(const bson_iter_t& value, int depth) {
  switch (bson_iter_type(&value)) {
    case BSON_TYPE_UTF8:
      return quote(text_of(value), true);
    case BSON_TYPE_OID:
      return fmt::format("ObjectId('{}')", oid_text(value));
    case BSON_TYPE_INT32:
    case BSON_TYPE_INT64:
      return std::to_string(bson_iter_as_int64(&value));
    case BSON_TYPE_DOUBLE:
      return show_double(bson_iter_double(&value));
    case BSON_TYPE_DECIMAL128:
      return fmt::format("Decimal128('{}')", decimal_text(value));
    case BSON_TYPE_BOOL:
      return bson_iter_bool(&value) ? "True" : "False";
    case BSON_TYPE_NULL:
      return "None";
    case BSON_TYPE_DATE_TIME:
      return show_date(bson_iter_date_time(&value));
    case BSON_TYPE_TIMESTAMP:
      return show_timestamp(value);
    case BSON_TYPE_BINARY: {
      const Binary binary(value);
      if (binary.subtype == BSON_SUBTYPE_BINARY) return binary.shown;
      return fmt::format("Binary({}, {})", binary.shown, static_cast<int>(binary.subtype));
    }
    case BSON_TYPE_DOCUMENT:
    case BSON_TYPE_ARRAY:
      return depth < kDepthMax ? show_members(value, depth) : extended_json(value);
    default:
      return extended_json(value);
  }
}

}  // namespace

std::string python_text(const bson_iter_t& value) {
  switch (bson_iter_type(&value)) {
    case BSON_TYPE_UTF8:
      return std::string(text_of(value));
    case BSON_TYPE_OID:
      return oid_text(value);
    case BSON_TYPE_DECIMAL128:
      return decimal_text(value);
    case BSON_TYPE_DATE_TIME:
      return date_text(bson_iter_date_time(&value));
    case BSON_TYPE_BINARY:
      return Binary(value).shown;
    default:
      return show(value, 0);
  }
}

}  // namespace llmproxy
