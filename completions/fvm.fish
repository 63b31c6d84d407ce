# fish completion for fvm: asks fvm itself, so that it knows every command and option there is.

function __fvm_program
    set -q FVM_PROGRAM; and echo $FVM_PROGRAM; or echo fvm
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
    eval (__fvm_program) __commands 2>/dev/null | awk -F'\t' '$1 != "" { print $1 "\t" $2 }'
end

# The options of the command on the line, long and short, each with its help.
function __fvm_options
    set -l name (__fvm_command)
    eval (__fvm_program) __commands 2>/dev/null | awk -F'\t' -v command=$name '
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

# Whether the word before the cursor is an option that takes an argument of a kind (a regex).
function __fvm_argument
    set -l words (commandline -opc)
    set -l name (__fvm_command); or return 1
    eval (__fvm_program) __commands 2>/dev/null | awk -F'\t' -v command=$name -v option=$words[-1] '
        $1 != "" { here = $1 == command; next }
        here && $4 != "" && (option == $2 || option == "-" $3) { print $4 }'
end

complete -c fvm -f
complete -c fvm -n 'not __fvm_command' -a '(__fvm_commands)'
complete -c fvm -n 'not __fvm_command' -l json -d 'results as JSON'
complete -c fvm -n 'not __fvm_command' -s q -l quiet -d 'no progress'
complete -c fvm -n 'not __fvm_command' -l debug -d 'tell what is done'
complete -c fvm -n 'not __fvm_command' -l help -d 'list the commands'
complete -c fvm -n 'not __fvm_command' -l version -d 'print the version'
complete -c fvm -n '__fvm_command; and string match -q -- "-*" (commandline -ct)' -a '(__fvm_options)'
complete -c fvm -n 'not __fvm_command' -a help -d 'Explain a command.'
complete -c fvm -n 'test "$(__fvm_command)" = help' -a '(__fvm_commands)'
complete -c fvm -n '__fvm_command; and test "$(__fvm_command)" != help' -a '(__fvm_vms)'
complete -c fvm -n '__fvm_command; and string match -qr "^(PATH|FILE|DIR|S\[|CMD)" (__fvm_argument)' -F
complete -c fvm -n '__fvm_command; and string match -qr "[|][a-z]" (__fvm_argument)' -a '(string split "|" (__fvm_argument))'
