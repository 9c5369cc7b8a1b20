// Tests of config/url.h: backend urls, host names and database URIs.
#include "config/url.h"

#include <gtest/gtest.h>

namespace llmproxy {
namespace {

TEST(IsHost, Table) {
  const std::pair<std::string, bool> cases[] = {
      {"127.0.0.1", true},
      {"0.0.0.0", true},
      {"::1", true},
      {"::", true},
      {"2001:db8::1", true},
      {"localhost", true},
      {"llm-server.example.com", true},
      {"llm_server", true},
      {"3com.example", true},
      {"xn--bcher-kva.example", true},
      {std::string(63, 'a') + ".b", true},
      {"", false},
      {"[::1]", false},
      {"::1%eth0", false},
      {"127.0.0.1:80", false},
      {"10.0.0.256", false},
      {"10.0.0", false},
      {"1", false},
      {"a b", false},
      {"a..b", false},
      {".a", false},
      {"a.", false},
      {".", false},
      {"-a", false},
      {"a-", false},
      {"a/b", false},
      {"b\xc3\xbc"
       "cher.example",
       false},
      {std::string(64, 'a'), false},
      {std::string("127.0.0.1\0x", 11), false},
      {std::string(127, 'a').replace(50, 1, ".").replace(100, 1, ".") + "." +
           std::string(127, 'b').replace(50, 1, ".").replace(100, 1, "."),
       false},  // 255 bytes of good labels
  };
  for (const auto& [host, expected] : cases) EXPECT_EQ(is_host(host), expected) << host;
}

TEST(IsDatabaseUri, Table) {
  const std::pair<std::string, bool> cases[] = {
      {"mongodb://localhost:27017/?serverSelectionTimeoutMS=2000", true},
      {"mongodb://h/", true},
      {"mongodb+srv://u:p@cluster.example.com/db", true},
      {"sqlite://file.db", true},
      {"sqlite:///var/lib/file.db", true},
      {"sqlite://./data/file.db", true},
      {"", false},
      {"mongodb://", false},
      {"mongodb+srv://", false},
      {"sqlite://", false},
      {"sqlite:///", false},
      {"sqlite://dir/", false},
      {"sqlite:file.db", false},
      {"postgres://h/db", false},
      {"file.db", false},
      {"mongodb://h/\n", false},
      {" mongodb://h/", false},
  };
  for (const auto& [uri, expected] : cases) EXPECT_EQ(is_database_uri(uri), expected) << uri;
}

struct Good {
  const char* url;
  bool is_https;
  const char* host;
  uint16_t port;
  const char* authority;
  const char* base_path;
};

TEST(ParseBackendUrl, Good) {
  const Good cases[] = {
      {"https://h.example.com", true, "h.example.com", 443, "h.example.com", ""},
      {"https://h.example.com/", true, "h.example.com", 443, "h.example.com", ""},
      {"http://h", false, "h", 80, "h", ""},
      {"HTTP://h", false, "h", 80, "h", ""},
      {"Https://h", true, "h", 443, "h", ""},
      {"http://h:8000", false, "h", 8000, "h:8000", ""},
      {"http://h:80", false, "h", 80, "h", ""},
      {"http://h:443", false, "h", 443, "h:443", ""},
      {"https://h:443/", true, "h", 443, "h", ""},
      {"https://h:80", true, "h", 80, "h:80", ""},
      {"http://h:1/a", false, "h", 1, "h:1", "/a"},
      {"http://h:65535/a/b/", false, "h", 65535, "h:65535", "/a/b"},
      {"http://127.0.0.1:8080/v1", false, "127.0.0.1", 8080, "127.0.0.1:8080", "/v1"},
      {"http://[::1]", false, "::1", 80, "[::1]", ""},
      {"http://[::1]:8000/x", false, "::1", 8000, "[::1]:8000", "/x"},
      {"https://[2001:db8::1]/", true, "2001:db8::1", 443, "[2001:db8::1]", ""},
      {"http://h/a%20b/~c.d-e_f!$&'()*+,;=:@", false, "h", 80, "h", "/a%20b/~c.d-e_f!$&'()*+,;=:@"},
  };
  for (const Good& c : cases) {
    Backend backend;
    EXPECT_EQ(parse_backend_url(c.url, backend), "") << c.url;
    EXPECT_EQ(backend.url, c.url);
    EXPECT_EQ(backend.is_https, c.is_https) << c.url;
    EXPECT_EQ(backend.host, c.host) << c.url;
    EXPECT_EQ(backend.port, c.port) << c.url;
    EXPECT_EQ(backend.authority, c.authority) << c.url;
    EXPECT_EQ(backend.base_path, c.base_path) << c.url;
  }
}

TEST(ParseBackendUrl, Bad) {
  const char* const kScheme = "expected a URL that begins with http:// or https://";
  const char* const kHost = "expected a host name, an IPv4 address or an [IPv6 address] after ://";
  const char* const kPort = "expected a port from 1 to 65535 after the host";
  const char* const kPath =
      "expected a path of plain segments, such as /prefix (no blanks, no //, no . or ..)";
  const char* const kUser =
      "expected a URL without user and password: the server's secret goes into `token`";
  const char* const kQuery = "expected a URL without query (?) and fragment (#)";
  const std::pair<std::string, std::string> cases[] = {
      {"", kScheme},
      {"localhost:8000", kScheme},
      {"ftp://h", kScheme},
      {"http:/h", kScheme},
      {" http://h", kScheme},
      {"httpss://h", kScheme},
      {"http://", kHost},
      {"http:///a", kHost},
      {"http://:80", kHost},
      {"http://a b", kHost},
      {"http://a_b..c", kHost},
      {"http://::1", kHost},
      {"http://[127.0.0.1]", kHost},
      {"http://[h]", kHost},
      {"http://10.0.0.256", kHost},
      {"http://h\\x", kHost},
      {"http://[::1", "expected ] after the IPv6 address"},
      {"http://h:", kPort},
      {"http://h:0", kPort},
      {"http://h:65536", kPort},
      {"http://h:-1", kPort},
      {"http://h:+1", kPort},
      {"http://h:80x", kPort},
      {"http://h:8 0", kPort},
      {"http://h:80:80", kPort},
      {"http://[::1]80", kPort},
      {"http://[::1]:", kPort},
      {"http://user@h", kUser},
      {"http://user:password@h/a", kUser},
      {"http://h?a=b", kQuery},
      {"http://h/a?", kQuery},
      {"http://h/#", kQuery},
      {"http://h//", kPath},
      {"http://h/a//b", kPath},
      {"http://h/a//", kPath},
      {"http://h/a b", kPath},
      {"http://h/.", kPath},
      {"http://h/a/../b", kPath},
      {"http://h/a%2", kPath},
      {"http://h/%zz", kPath},
      {"http://h/a\\b", kPath},
      {"http://h/a\nb", kPath},
      {"http://h/\xc3\xbc", kPath},
  };
  for (const auto& [url, expected] : cases) {
    Backend backend;
    EXPECT_EQ(parse_backend_url(url, backend), expected) << url;
  }
}

}  // namespace
}  // namespace llmproxy
