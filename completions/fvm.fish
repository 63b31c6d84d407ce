# fish completion for fvm: asks fvm itself, so that it knows every command and option there is.

function __fvm_program
    set -q FVM_PROGRAM; and echo $FVM_PROGRAM; or echo fvm
end

function __fvm_table
    eval (__fvm_program) __commands 2>/dev/null
end

# The command on the line so far, or nothing.
function __fvm_command
    for word in (commandline -opc)[2..-1]
        if not string match -q -- '-*' $word
            echo $word
            return 0
        end
    end
    return 1
end

function __fvm_commands
    __fvm_table | awk -F'\t' '$1 != "" { print $1 "\t" $2 }'
end

# The options of the command on the line, long and short, each with its help.
function __fvm_options
    set -l name (__fvm_command)
    __fvm_table | awk -F'\t' -v command=$name '
        $1 != "" { here = $1 == command; next }
        here {
            print $2 "\t" $5
            if ($3 != "-") print "-" $3 "\t" $5
        }
        END { print "--help\texplain the command" }'
end

function __fvm_vms
    eval (__fvm_program) ls --names 2>/dev/null
end

# What is to come next on the line: "argument NAME" of an option, or "operand NAME" (of the command's
# usage), or "command N": the words of a command to run in the VM, of which there are N so far.
# An operand to which options may come, too, is "either NAME".
function __fvm_next
    set -l name (__fvm_command); or return 1
    begin
        __fvm_table
        string join -- \n "" $name (commandline -opc)
    end | awk -F'\t' -v command=$name '
        function takes(word) { sub(/=.*/, "", word); return argument[word] }
        function operand(index_, names, n, i, k, last) {
            n = split(operands, names, " ")
            for (i = k = 1; i <= n; i++) {
                if (names[i] == "[--]") continue
                if (k++ == index_) return names[i]
                last = names[i] ~ /[.][.]/ ? names[i] : ""
            }
            return last
        }
        !line && $0 == "" { line = 1; next }
        !line && $1 != "" { here = $1 == command; if (here) operands = $3; next }
        !line { if (here) { argument[$2] = $4; argument["-" $3] = $4 }; next }
        line == 1 { line = 2; next }
        line == 2 { if ($0 == command) line = 3; next }
        wanted != "" { wanted = ""; next }
        running { words++; next }
        $0 == "--" { over = 1; next }
        !over && /^-/ { if ($0 !~ /=/) wanted = command " " $0 == "run --name" ? "VM" : takes($0); next }
        {
            if (operand(++count) ~ /CMD/) { running = 1; words++ }
            if (operands ~ /CMD/) over = 1
        }
        END {
            if (running) print "command " words
            else if (wanted != "") print "argument " wanted
            else print (over ? "operand " : "either ") operand(count + 1)
        }'
end

function __fvm_next_is
    string match -qr -- $argv[1] "$(__fvm_next)"
end

# Completions of the command to run, as if it stood there alone.
function __fvm_run_command
    set -l words (commandline -opc) (commandline -ct)
    set -l count (string replace 'command ' '' -- "$(__fvm_next)")
    string match -qr '^[0-9]+$' -- $count; or set count 0
    set words $words[(math -1 - $count)..-1]
    set -l last $words[-1]
    set -e words[-1]
    complete -C "$(string join ' ' -- (string escape -- $words) $last)"
end

complete -c fvm -f
complete -c fvm -n 'not __fvm_command' -a '(__fvm_commands)'
complete -c fvm -n 'not __fvm_command' -l json -d 'results as JSON'
complete -c fvm -n 'not __fvm_command' -s q -l quiet -d 'no progress'
complete -c fvm -n 'not __fvm_command' -l debug -d 'tell what is done'
complete -c fvm -n 'not __fvm_command' -l help -d 'list the commands'
complete -c fvm -n 'not __fvm_command' -l version -d 'print the version'
complete -c fvm -n 'not __fvm_command' -a help -d 'Explain a command.'
complete -c fvm -n 'test "$(__fvm_command)" = help' -a '(__fvm_commands)'
complete -c fvm -n 'string match -q -- "-*" (commandline -ct); and __fvm_next_is "^either "' -a '(__fvm_options)'
complete -c fvm -n '__fvm_next_is " \[?VM([^:]|\$)"' -a '(__fvm_vms)'
complete -c fvm -n '__fvm_next_is " \[VM:"' -a '(__fvm_vms | string replace -r "\$" :)'
complete -c fvm -n '__fvm_next_is " \[?(PATH|FILE|DIR|S\[|\[VM:)"' -F
complete -c fvm -n '__fvm_next_is "^argument .*[|][a-z]"' -a '(string split "|" -- (string replace "argument " "" -- "$(__fvm_next)"))'
complete -c fvm -n '__fvm_next_is "^argument USER"' -a '(__fish_complete_users)'
complete -c fvm -n '__fvm_next_is "^argument SIG"' -a '(kill -l | string split " ")'
complete -c fvm -n '__fvm_next_is "^command|^operand \[?CMD"; or begin; not string match -q -- "-*" (commandline -ct); and __fvm_next_is "^either \[?CMD"; end' -a '(__fvm_run_command)'
