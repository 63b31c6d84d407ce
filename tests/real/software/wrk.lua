-- wrk asks for N.txt, whose lines say N, and counts the answers that are not such a file.
local threads = {}
local at = 0
wrong = 0

function setup(thread)
	table.insert(threads, thread)
end

function request()
	at = (at + 7) % 50
	return wrk.format("GET", "/" .. at .. ".txt")
end

function response(status, headers, body)
	local number = tonumber(body:match("end (%d+)\n$"))
	local first = number and number > 0 and number .. " 0\n" or "end 0\n"
	if not number or body:sub(1, #first) ~= first or select(2, body:gsub("\n", "")) ~= 100 * number + 1 then
		wrong = wrong + 1
	end
end

function done(summary, latency, requests)
	local sum = 0
	for _, thread in ipairs(threads) do
		sum = sum + thread:get("wrong")
	end
	io.write("wrong bodies: " .. sum .. "\n")
end
