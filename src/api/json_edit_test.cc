// Splices change one member and leave every other byte.
#include "api/json_edit.h"

#include <gtest/gtest.h>

#include <ostream>

#include "api/json.h"
#include "api/splice_trial.h"

namespace llmproxy {
namespace {

std::string joined(std::string_view text) {
  std::string all;
  for (const Member& member : object_members(text)) {
    EXPECT_EQ(text.substr(member.begin + 1, member.key.size()), member.key);
    EXPECT_EQ(text.data() + member.end, member.value.data() + member.value.size());
    all.append(member.key).append("=").append(member.value).append(";");
  }
  return all;
}

TEST(JsonEdit, FindsMembers) {
  const struct {
    std::string_view text;
    std::string_view members;
  } cases[] = {
      {"{}", ""},
      {" { } ", ""},
      {"[]", ""},
      {"7", ""},
      {"", ""},
      {R"({"a":1})", "a=1;"},
      {R"( { "a" : 1 , "b" : "x" } )", R"(a=1;b="x";)"},
      {R"({"a":{"b":[1,"}"],"c":{}},"d":[],"e":-1.5e-7,"f":null})",
       R"(a={"b":[1,"}"],"c":{}};d=[];e=-1.5e-7;f=null;)"},
      {R"({"a":"x\"y","b\"":"\\","\u0061":"\\\"","a":""})",
       R"(a="x\"y";b\"="\\";\u0061="\\\"";a="";)"},
      {"{\n\t\"a\"\r\n:\ttrue\n,\"b\":false\n}", "a=true;b=false;"},
      {"\xEF\xBB\xBF {\"a\":NaN,\"b\":\"\xff\"}", "a=NaN;b=\"\xff\";"},
  };
  for (const auto& c : cases) EXPECT_EQ(joined(c.text), c.members) << c.text;
}

TEST(JsonEdit, TellsWhetherTheTextEndsWhereTheObjectDoes) {
  std::vector<Member> members;
  for (const char* text : {"{}", " { } \n", R"({"a":1})", R"({"a":[{}],"b":NaN })"}) {
    EXPECT_TRUE(object_members(text, members)) << text;
  }
  for (const char* text : {"", "7", "[]", "{", R"({"a)", R"({"a":1)", R"({"a":{})", R"({"a":"1})",
                           R"({"a":1} x)", R"({"a":1}})", R"({"a":1 "b":2})", R"({"a" 1})"}) {
    EXPECT_FALSE(object_members(text, members)) << text;
  }
}

TEST(JsonEdit, FindsTheValuesOfAnArray) {
  using Values = std::vector<std::string_view>;
  EXPECT_EQ(array_values(R"( [1 , "a,]" ,{"b":[2,3]},[ ],NaN] )"),
            (Values{"1", R"("a,]")", R"({"b":[2,3]})", "[ ]", "NaN"}));
  for (const char* text : {"[]", " [ ] ", "", "7", "{}", "["}) {
    EXPECT_EQ(array_values(text), Values{}) << text;
  }
}

TEST(JsonEdit, StaysWithinBytesThatAreNoJson) {
  const std::string text = R"( {"a":[{"b":"c\"}]"}],"d":1e5 , "e" : "x" } )";
  for (size_t begin = 0; begin < text.size(); ++begin) {
    for (size_t size = 0; size <= text.size() - begin; ++size) {
      const std::string part = text.substr(begin, size);
      for (const Member& member : object_members(part)) ASSERT_LE(member.end, part.size());
      for (const std::string_view value : array_values(part)) ASSERT_FALSE(value.empty());
    }
  }
}

TEST(JsonEdit, RemovesAMemberWithItsComma) {
  const struct {
    std::string_view text;
    size_t index;
    std::string_view result;
  } cases[] = {
      {R"({"a":1})", 0, "{}"},
      {R"({ "a":1 })", 0, "{  }"},
      {R"({"a":1,"b":2,"c":3})", 0, R"({"b":2,"c":3})"},
      {R"({"a":1,"b":2,"c":3})", 1, R"({"a":1,"c":3})"},
      {R"({"a":1,"b":2,"c":3})", 2, R"({"a":1,"b":2})"},
      {R"({ "a" : 1 , "b" : {"x":[]} , "c" : 3 })", 0, R"({ "b" : {"x":[]} , "c" : 3 })"},
      {R"({ "a" : 1 , "b" : {"x":[]} , "c" : 3 })", 1, R"({ "a" : 1 , "c" : 3 })"},
      {R"({ "a" : 1 , "b" : {"x":[]} , "c" : 3 })", 2, R"({ "a" : 1 , "b" : {"x":[]} })"},
  };
  for (const auto& c : cases) {
    const Splice splice = remove_member(c.text, object_members(c.text), c.index);
    EXPECT_EQ(apply_splices(c.text, {splice}), c.result) << c.text;
  }
}

TEST(JsonEdit, AddsAMemberAtTheEnd) {
  const struct {
    std::string_view text;
    std::string_view result;
  } cases[] = {
      {"{}", R"({"k\"":[1]})"},
      {" { } ", R"( {"k\"":[1] } )"},
      {R"({"a":1})", R"({"a":1,"k\"":[1]})"},
      {R"({"a":{} , "b" : 2 } )", R"({"a":{} , "b" : 2,"k\"":[1] } )"},
  };
  for (const auto& c : cases) {
    const Splice splice = add_member(c.text, object_members(c.text), "k\"", "[1]");
    EXPECT_EQ(apply_splices(c.text, {splice}), c.result) << c.text;
  }
}

TEST(JsonEdit, AppliesSplicesInOrder) {
  EXPECT_EQ(apply_splices("abcdef", {}), "abcdef");
  EXPECT_EQ(apply_splices("abcdef", {{0, 1, "X"}, {1, 0, "-"}, {3, 2, ""}, {6, 0, "!"}}), "X-bcf!");
}

TEST(JsonEdit, QuotesAnything) {
  using namespace std::string_view_literals;
  const struct {
    std::string_view text;
    std::string_view quoted;
  } cases[] = {
      {"", R"("")"},
      {"a/b", R"("a/b")"},
      {"\"\\\n\r\t\b\x1f\0"sv, R"("\"\\\n\r\t\u0008\u001f\u0000")"},
      {"\x7f", "\"\x7f\""},
      {"\xC5\x82\xE2\x82\xAC\xF0\x9F\x98\x80", "\"\xC5\x82\xE2\x82\xAC\xF0\x9F\x98\x80\""},
      {"a\xFFz", "\"a\xEF\xBF\xBDz\""},
      {"\xC0\x80", "\"\xEF\xBF\xBD\xEF\xBF\xBD\""},
      {"\xE0\x9F\xBF", "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""},
      {"\xED\xA0\x80", "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""},
      {"\xF4\x90\x80\x80", "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""},
      {"\xE2\x82", "\"\xEF\xBF\xBD\xEF\xBF\xBD\""},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(quote_json(c.text), c.quoted);
    EXPECT_TRUE(JsonText(c.quoted).ok()) << c.quoted;
  }
}

}  // namespace
}  // namespace llmproxy
