// What a start makes of the ledger that the process before left behind, however it ended.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "base/result.h"
#include "billing/ledger_log.h"

namespace llmproxy {

struct Recovered {
  LedgerLog::Start start;
  // To be appended before anything else: the tail, which after a power cut might be gone although
  // it can be read now, then the outcome of each stream that was open.
  std::vector<Record> first;
  uint64_t mark = 0;     // settled with the database up to here, also by a mark in `first`
  uint64_t backlog = 0;  // events beyond it, those of `first` among them
  uint64_t billed = 0, unresolved = 0;  // streams that were open
  std::vector<Gap> lost;                // records beyond the mark that are missing, as told
  std::vector<std::string> notes;       // for the log: what a crash leaves
  std::vector<std::string> alarms;      // for the log: what should never be
};

struct RecoveryOptions {
  std::string database;  // of the configured one, such as "mongodb://HOSTS/DATABASE.COLLECTION"
  bool may_retarget = false;  // its events may go there although they were another's
  // Changes nothing and settles nothing, also beside a running owner: start.state is all that the
  // records say, those of the tail (`first`) too; start.header.database is whose events they are.
  bool is_survey = false;
};

// `directory` is locked by us. Writes nothing but quarantine files, and removes spare segments:
// what counts is copied by who appends `first`. Called again after a crash in the middle of it, or
// of that, it finds the same. Errors: blame kProxy, for people; status 78 in `status` where the
// configuration must change (another database, a newer program) or the files (of two ledgers), else
// 70 (the disk).
Result<Recovered> recover_ledger(Directory& directory, const RecoveryOptions& options);

}  // namespace llmproxy
