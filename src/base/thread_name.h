// What a thread is called, for `top -H`, gdb and bench/: a process that bills should show what its
// time goes into.
#pragma once

#include <sys/prctl.h>

namespace llmproxy {

// Of the calling thread; threads that it starts begin with it. At most 15 bytes, or the rest is cut
// off (prctl(2)).
inline void name_thread(const char* name) {
  prctl(PR_SET_NAME, name);
}

}  // namespace llmproxy
