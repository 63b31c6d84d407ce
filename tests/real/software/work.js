// Timers, workers with shared memory, a server and its clients, children, hashing and objects in one
// node; each looks at what it gets. Until ./enough is there ./steps has the least that anyone has
// done; then ./result has "well" or what was wrong.
'use strict';
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const fs = require('fs'), http = require('http'), crypto = require('crypto'), zlib = require('zlib');
const { execFile } = require('child_process');

if (!isMainThread) {
	// adds up to what the other one has, by a lock in shared memory
	const shared = new Int32Array(workerData);
	for (let i = 1;; i++) {
		while (Atomics.compareExchange(shared, 0, 0, 1)) Atomics.wait(shared, 0, 1, 10);
		const a = shared[1], b = shared[2];
		shared[1] = a + 1;
		let x = 1;
		for (let k = 0; k < 20000; k++) x = Math.imul(x, 1664525) + 1013904223 | 0;
		shared[2] = b + 1;
		const bad = a !== b || x !== 1453904673;
		Atomics.store(shared, 0, 0);
		Atomics.notify(shared, 0);
		parentPort.postMessage({ i, bad, x });
	}
}

const steps = { ticks: 0, requests: 0, digests: 0, children: 0, zipped: 0, objects: 0, a: 0, b: 0 };
const wrong = [];
const enough = () => wrong.length > 0 || fs.existsSync('enough');
let ended = false;
function same(a, b, what) {
	if (a !== b) wrong.push(`${what}: ${String(a).slice(0, 60)} is not ${String(b).slice(0, 60)}`);
}
process.on('uncaughtException', e => wrong.push(e.stack));
process.on('unhandledRejection', e => wrong.push(String(e && e.stack)));

const shared = new SharedArrayBuffer(64);
for (const name of ['a', 'b']) {
	const worker = new Worker(__filename, { workerData: shared });
	worker.on('message', m => {
		same(m.i, ++steps[name], 'a worker');
		if (m.bad) wrong.push('shared memory ' + m.x);
	});
}

let last = process.hrtime.bigint();
setInterval(() => {
	const now = process.hrtime.bigint();
	if (now < last) wrong.push('time goes back');
	last = now;
	steps.ticks++;
}, 5);

// each follows from the one before
let chain = '';
setInterval(() => {
	chain = crypto.createHash('sha256').update(chain).digest('hex');
	steps.digests++;
}, 1);

const objects = new Map();
function churn(i) {
	for (let k = 0; k < 500; k++, i++) {
		objects.set(i % 30000, { i, text: 'v' + i, list: [i, i + 1, objects.get((i + 1) % 30000)?.i] });
		const o = objects.get((i * 7919) % 30000);
		if (o) same(o.text, 'v' + o.i, 'an object');
	}
	steps.objects++;
	setTimeout(churn, 1, i);
}
churn(0);

const agent = new http.Agent({ keepAlive: true, maxSockets: 4 });
const server = http.createServer((request, response) => {
	const hash = crypto.createHash('md5');
	request.on('data', d => hash.update(d));
	request.on('end', () => response.end(request.url + ' ' + hash.digest('hex')));
});
server.keepAliveTimeout = 0;
server.listen(0, '127.0.0.1', () => [1, 2, 3, 4].forEach(() => ask()));
function ask() {
	const n = steps.requests++;
	const body = Buffer.alloc(1000 + n % 50000, n % 256);
	const request = http.request({ agent, port: server.address().port, host: '127.0.0.1', path: '/' + n,
		method: 'POST' }, response => {
		let text = '';
		response.on('data', d => text += d);
		response.on('end', () => {
			same(text, '/' + n + ' ' + crypto.createHash('md5').update(body).digest('hex'), 'an answer');
			setImmediate(ask);
		});
	});
	request.on('error', e => wrong.push('request: ' + e));
	request.end(body);
}

function child() {
	const n = steps.children;
	execFile('sh', ['-c', `echo $((${n} + 1))`], (e, out) => {
		if (e) wrong.push(String(e));
		same(out, `${n + 1}\n`, 'a child');
		steps.children++;
		setTimeout(child, 1);
	});
}
child();

// by the threads of libuv's pool
function zip() {
	const n = steps.zipped;
	const data = Buffer.alloc(200000, 'text ' + n);
	zlib.gzip(data, (e, packed) => zlib.gunzip(packed, (e, again) => {
		same(again.equals(data), true, 'zipped');
		steps.zipped++;
		setTimeout(zip, 1);
	}));
}
zip();

function tell(name, words) {
	fs.writeFileSync(name + '.new', words + '\n');
	fs.renameSync(name + '.new', name);
}
setInterval(() => {
	if (!enough()) return tell('steps', Math.min(...Object.values(steps)));
	let again = '';
	for (let i = 0; i < steps.digests; i++) again = crypto.createHash('sha256').update(again).digest('hex');
	same(again, chain, 'the digest of all');
	tell('result', wrong.length ? wrong[0] : 'well');
	process.exit(0);
}, 50);
