// Tests of db/mongo_uri.h: which URIs are refused, and that no piece of a password is ever told.
#include "db/mongo_uri.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace llmproxy {
namespace {

std::string problem(const std::string& uri) {
  mongoc_log_set_handler(nullptr, nullptr);
  const auto parsed = parse_mongo_uri(uri);
  return parsed.ok() ? "" : parsed.error().message;
}

constexpr const char* kEscape = "expected %40 for @";  // how the advice begins

TEST(ParseMongoUri, Good) {
  for (const char* uri :
       {"mongodb://h", "mongodb://h:27017/", "mongodb://h/db", "mongodb://user@h/",
        "mongodb://user:@h/", "mongodb://user:p%40s%3As%2F@h/", "mongodb://u:p@h1:1,h2:2/db?w=1",
        "mongodb://u:p!$&'()*+;=-._~@h/", "mongodb://[::1]:27017/", "mongodb://%2Ftmp%2Fx.sock/",
        "mongodb://h/?appName=me@host", "mongodb://h/?w=1&appname=@",
        "mongodb://u:p@h/db?w=1&appName=a@b&tls=true",
        "mongodb+srv://u:p@cluster.example.com/db"}) {
    EXPECT_EQ(problem(uri), "") << uri;
  }
}

TEST(ParseMongoUri, TellsWhatTheDriverDoesNotLike) {
  const std::pair<const char*, const char*> cases[] = {
      {"mongodb://h:99999/", "Invalid host string in URI"},
      {"mongodb://h:0", "Invalid host string in URI"},
      {"mongodb://u:p@h:abc", "Invalid host string in URI"},
      {"mongodb:///", "Invalid host string in URI"},
      {"mongodb://%zz", "Invalid host string in URI"},
      {"mongodb://u:p@", "Invalid host string in URI"},
      {"mongodb://h/a.b", "Invalid database name in URI"},
      {"mongodb://h/?serverSelectionTimeoutMS=abc",
       "Unsupported value for \"serverselectiontimeoutms\""},
      {"mongodb://u:p@h/?tls=x", "Unsupported value for \"tls\""},
      {"mongodb://h/?tls", "an option cannot be read"},
      {"mongodb+srv://h1,h2", "Invalid service name in URI"},
      {"mongodb+srv://u:p@h:27017", "Invalid service name in URI"},
  };
  for (const auto& [uri, expected] : cases) EXPECT_EQ(problem(uri), expected) << uri;
}

TEST(UnknownMongoOptions, AreThoseThatTheDriverWarnsOf) {
  for (const char* option : {"appName=a",
                             "authMechanism=PLAIN",
                             "authMechanismProperties=SERVICE_NAME:x",
                             "authSource=a",
                             "canonicalizeHostname=true",
                             "compressors=zlib",
                             "connectTimeoutMS=1",
                             "directConnection=true",
                             "gssapiServiceName=x",
                             "heartbeatFrequencyMS=500",
                             "journal=true",
                             "loadBalanced=false",
                             "localThresholdMS=1",
                             "maxIdleTimeMS=1",
                             "maxPoolSize=1",
                             "maxStalenessSeconds=90",
                             "minPoolSize=1",
                             "readConcernLevel=local",
                             "readPreference=secondary",
                             "readPreferenceTags=a:b",
                             "replicaSet=r",
                             "retryReads=true",
                             "retryWrites=true",
                             "safe=true",
                             "serverSelectionTimeoutMS=1",
                             "serverSelectionTryOnce=true",
                             "socketCheckIntervalMS=1",
                             "socketTimeoutMS=1",
                             "ssl=true",
                             "tls=true",
                             "tlsCAFile=x",
                             "tlsCertificateKeyFile=x",
                             "tlsInsecure=true",
                             "w=majority",
                             "w=1",
                             "waitQueueTimeoutMS=1",
                             "wTimeoutMS=1",
                             "zlibCompressionLevel=1",
                             "odd=1",
                             "uuidRepresentation=standard",
                             "timeoutMS=1",
                             "retryWrite=true",
                             "=1"}) {
    const std::string uri = "mongodb://u:p@h/?tls=true&" + std::string(option);
    bool has_warned = false;
    mongoc_log_set_handler(
        [](mongoc_log_level_t, const char*, const char* message, void* seen) {
          if (std::string_view(message).find("nsupported URI option") != std::string_view::npos)
            *static_cast<bool*>(seen) = true;
        },
        &has_warned);
    const auto parsed = parse_mongo_uri(uri);
    mongoc_log_set_handler(nullptr, nullptr);
    const std::string name(option, std::string_view(option).find('='));
    EXPECT_EQ(unknown_mongo_options(uri),
              has_warned ? std::vector{name} : std::vector<std::string>())
        << option << (parsed ? "" : parsed.error().message);
  }
  EXPECT_EQ(unknown_mongo_options("mongodb://h/?x=secret&tls=true&y"),
            (std::vector<std::string>{"x", "y"}));
  EXPECT_TRUE(unknown_mongo_options("mongodb://u:p@h/db").empty());
}

// An & that should have been escaped makes a name of what is a piece of the secret.
TEST(UnknownMongoOptions, AreNotNamedBehindASecret) {
  for (const char* secret :
       {"tlsCertificateKeyFilePassword=pa", "SSLclientCertificateKeyPassword=pa",
        "authMechanismProperties=AWS_SESSION_TOKEN:pa"}) {
    const std::string uri = "mongodb://h/?odd=1&" + std::string(secret) + "&tls=true&ss=w&rd=x";
    ASSERT_TRUE(parse_mongo_uri(uri)) << uri;
    const auto unknown = unknown_mongo_options(uri);
    ASSERT_EQ(unknown.size(), 2U) << uri;
    EXPECT_EQ(unknown[0], "odd");
    EXPECT_EQ(unknown[1], "what follows " +
                              std::string(secret, std::string_view(secret).find('=')) +
                              " (in a value, write %26 for &)");
  }
}

TEST(ParseMongoUri, AdvisesToEscape) {
  for (const char* user_info :
       {"u:a@b", "u@x:p", "u:a/b", "u:1/b", "u:a?b", "u:1/?b", "u:1/?b=", "u:a#b", "u:a,b", "u:a:b",
        "u:a%zz", "u:a%", "u:a%4", "u%zz:p", ":p", ""}) {
    EXPECT_TRUE(problem("mongodb://" + std::string(user_info) + "@h/").starts_with(kEscape))
        << user_info << ": " << problem("mongodb://" + std::string(user_info) + "@h/");
  }
}

std::string lower(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
  return text;
}

// Two characters that mean something in a URI, anywhere in a password that is used as it is.
TEST(ParseMongoUri, NeverTellsAPieceOfAPassword) {
  const std::string_view odd[] = {"",  "@",  ":", "/",   "?",  "#",  ",",  "%",   "[",
                                  "]", "=",  "&", "\"",  "'",  " ",  "+",  "%zz", "/?",
                                  ".", "\\", "$", ";a=", "@/", "@,", "::", "~",   "\xc3\xbc"};
  for (const std::string_view a : odd) {
    for (const std::string_view b : odd) {
      const std::string password = "QXVE" + std::string(a) + "wz3k" + std::string(b) + "T0pm";
      for (const std::string& uri :
           {"mongodb://u:" + password + "@h:0/db", "mongodb://u:" + password + "@h/?tls=x",
            "mongodb://" + password + ":u@h:0/", "mongodb+srv://u:" + password + "@a.b.c:1/",
            "mongodb://u:p@h/?tlsCertificateKeyFilePassword=" + password,
            "mongodb://u:p@h/?authMechanismProperties=" + password}) {
        const std::string told = lower(problem(uri));
        for (const char* piece : {"qxve", "wz3k", "t0pm"}) {
          EXPECT_EQ(told.find(piece), std::string::npos) << uri << "\n" << told;
        }
      }
      // What the driver does take has no host that is a piece of the password.
      const auto parsed = parse_mongo_uri("mongodb://u:" + password + "@h/");
      if (!parsed.ok()) continue;
      for (const auto* host = mongoc_uri_get_hosts(parsed->get()); host; host = host->next) {
        EXPECT_STREQ(host->host, "h") << password;
      }
    }
  }
}

TEST(WithoutPassword, Table) {
  const std::pair<const char*, const char*> cases[] = {
      {"mongodb://u:secret@h", "*** and ***"},
      {"mongodb://u:secret@h/?appName=a@b", "*** and ***"},
      {"mongodb://secret@h", "secret and secret"},
      {"mongodb://u:@h", "secret and secret"},
      {"mongodb://h", "secret and secret"},
  };
  for (const auto& [uri, expected] : cases) {
    EXPECT_EQ(without_password("secret and secret", uri), expected) << uri;
  }
}

TEST(MongoIdentity, NamesThePlaceAndNobody) {
  const std::pair<const char*, const char*> cases[] = {
      {"mongodb://h", "mongodb://h:27017/d.c"},
      {"mongodb://user:secret@h/other?w=1&appName=x", "mongodb://h:27017/d.c"},
      {"mongodb://User:p@Host2:1,HOST1/", "mongodb://host1:27017,host2:1/d.c"},
      {"mongodb://b:2,a:1/?replicaSet=Rs0&tls=true", "mongodb://a:1,b:2/d.c?replicaSet=Rs0"},
      {"mongodb://[::1]:27018/", "mongodb://[::1]:27018/d.c"},
      {"mongodb://%2Ftmp%2FX.sock/", "mongodb:///tmp/X.sock/d.c"},
      {"mongodb+srv://u:p@Cluster.Example.com/db", "mongodb+srv://cluster.example.com/d.c"},
  };
  for (const auto& [uri, expected] : cases) {
    const auto parsed = parse_mongo_uri(uri);
    ASSERT_TRUE(parsed) << uri << ": " << parsed.error().message;
    EXPECT_EQ(mongo_identity(**parsed, "d.c"), expected) << uri;
  }
}

}  // namespace
}  // namespace llmproxy
