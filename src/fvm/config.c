#include "fvm/config.h"
