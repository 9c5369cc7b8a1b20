// MongoDB's URIs: what the driver makes of one, and nothing of its user and password in what is
// said about it. Connects to nobody.
#pragma once

#include <mongoc/mongoc.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace llmproxy {

struct MongoUriDestroy {
  void operator()(mongoc_uri_t* uri) const { mongoc_uri_destroy(uri); }
};
using MongoUri = std::unique_ptr<mongoc_uri_t, MongoUriDestroy>;

// Refuses user names and passwords in which two readers could see different ends: the driver would
// take a piece of the password for the name of a host, and quote it.
Result<MongoUri> parse_mongo_uri(const std::string& uri);

// The options of a URI that parse_mongo_uri() takes, and the driver does not look at: their names,
// or behind an option with a secret only that there are some.
std::vector<std::string> unknown_mongo_options(std::string_view uri);

// Database::identity() of `uri`; `collection` is "DATABASE.COLLECTION".
std::string mongo_identity(const mongoc_uri_t& uri, std::string_view collection);

// `text` with *** in the place of the password of `uri`.
std::string without_password(std::string text, std::string_view uri);

}  // namespace llmproxy
