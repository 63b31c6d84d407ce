# Lines of "name value unit" as tables for bench/RESULTS.md: what was timed in turns (it has a .p95)
# as one table for each group, a row for each subject; all else by name and value.

function sorted(value) { return value + 0 >= 100 ? sprintf("%.0f", value) : sprintf("%.3g", value) }
function cell(name) { return name in figure ? sorted(figure[name]) : "" }

/^#/ || NF < 3 { next }
{
	figure[$1] = $2
	unit[$1] = $3
	if ($1 in seen)
		next
	seen[$1] = 1
	order[++count] = $1
}
END {
	for (i = 1; i <= count; i++) {
		name = order[i]
		if (!((name ".p95") in seen))
			continue
		group = name
		sub("/[^/]*$", "", group)
		if (group != last) {
			printf "\n%s (ms)\n\n", group
			print "| | median | p90 | p95 | CPU time | ratio | its quartiles | ratio of CPU |"
			print "|---|---|---|---|---|---|---|---|"
		}
		last = group
		quarter = cell(name ".ratio.p25")
		if (quarter != "")
			quarter = quarter " to " cell(name ".ratio.p75")
		print "| " substr(name, length(group) + 2) " | " cell(name) " | " cell(name ".p90") \
			" | " cell(name ".p95") " | " cell(name ".cpu") " | " cell(name ".ratio") \
			" | " quarter " | " cell(name ".cpu-ratio") " |"
	}
	head = 0
	for (i = 1; i <= count; i++) {
		name = order[i]
		stem = name
		sub("[.](p90|p95|cpu|ratio|ratio[.]p25|ratio[.]p75|cpu-ratio)$", "", stem)
		if ((stem ".p95") in seen || (stem != name && stem in seen))
			continue
		if (!head++)
			print "\n| | | CPU time |\n|---|---|---|"
		print "| " name " | " sorted(figure[name]) " " unit[name] " | " cell(name ".cpu") " |"
	}
}
