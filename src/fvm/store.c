#include "fvm/store.h"
