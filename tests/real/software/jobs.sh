# shellcheck shell=bash
# Sourced by an interactive bash: pipelines, subshells and here-documents, as fast as they go.
# Line N of ~/out has N and its digest by way of three processes.
work() {
	local sum
	while [ ! -e ~/enough ]; do
		n=$((n + 1))
		sum=$(printf '%s\n' $n | cat | md5sum | { read -r a rest; echo "$a"; })
		echo "$n $sum"
		cat <<-END >>~/out
			$n $sum
		END
	done
}
