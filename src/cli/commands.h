/* All commands, one per line and file; main.c and changes_main.c list which program has which. */
#ifndef FVM_CLI_COMMANDS_H
#define FVM_CLI_COMMANDS_H

#include "cli/cli.h"

extern const struct cli_command cli_attach;
extern const struct cli_command cli_checkpoint;
extern const struct cli_command cli_clone;
extern const struct cli_command cli_commit;
extern const struct cli_command cli_cp;
extern const struct cli_command cli_create;
extern const struct cli_command cli_diff;
extern const struct cli_command cli_doctor;
extern const struct cli_command cli_enter;
extern const struct cli_command cli_exec;
extern const struct cli_command cli_export;
extern const struct cli_command cli_handles;
extern const struct cli_command cli_import;
extern const struct cli_command cli_inspect;
extern const struct cli_command cli_kill;
extern const struct cli_command cli_logs;
extern const struct cli_command cli_ls;
extern const struct cli_command cli_pause;
extern const struct cli_command cli_prune;
extern const struct cli_command cli_ps;
extern const struct cli_command cli_rebind;
extern const struct cli_command cli_rename;
extern const struct cli_command cli_reset;
extern const struct cli_command cli_restore;
extern const struct cli_command cli_resume;
extern const struct cli_command cli_rm;
extern const struct cli_command cli_rollback;
extern const struct cli_command cli_run;
extern const struct cli_command cli_snapshot;
extern const struct cli_command cli_start;
extern const struct cli_command cli_stats;
extern const struct cli_command cli_stop;
extern const struct cli_command cli_top;
extern const struct cli_command cli_trace;
extern const struct cli_command cli_undo;
extern const struct cli_command cli_version;
extern const struct cli_command cli_wait;
extern const struct cli_command cli_who;

#endif
