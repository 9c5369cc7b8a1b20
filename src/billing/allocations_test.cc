// This program's operator new counts, and fails when told to.
#include "base/test_new.h"
