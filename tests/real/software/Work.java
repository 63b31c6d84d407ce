import java.io.*;
import java.net.*;
import java.nio.file.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import java.util.function.*;

/**
 * Threads, pools, locks, sockets, children, and much for the collector and the compiler to do; each
 * looks at what it gets. Until ./enough is there ./steps has the least that anyone has done; then
 * ./result has "well" or what was wrong.
 */
public class Work {
	static final Map<String, AtomicLong> steps = new ConcurrentHashMap<>();
	static final Queue<String> wrong = new ConcurrentLinkedQueue<>();
	static volatile boolean over;

	interface Step {
		void run(long i) throws Exception;
	}

	static void same(Object a, Object b, String what) {
		if (!a.equals(b))
			throw new IllegalStateException(what + ": " + a + " is not " + b);
	}

	static void worker(String name, Step step) {
		AtomicLong count = new AtomicLong();
		steps.put(name, count);
		Thread t = new Thread(() -> {
			try {
				while (!over) {
					step.run(count.get());
					count.incrementAndGet();
				}
			} catch (Throwable e) {
				StringWriter text = new StringWriter();
				e.printStackTrace(new PrintWriter(text));
				wrong.add(name + ": " + text);
			}
		}, name);
		t.setDaemon(true);
		t.start();
	}

	/** The same sum by two ways, which the compiler may make into vectors. */
	static void numbers(long i) {
		int[] a = new int[5000];
		int x = (int) i, sum = 0, again = 0;
		for (int k = 0; k < a.length; k++) {
			x = x * 1664525 + 1013904223;
			a[k] = x;
			sum += x;
		}
		for (int k = 0; k < a.length; k++)
			again += a[k];
		same(sum, again, "numbers");
		double d = i, e = i;
		for (int k = 0; k < 5000; k++)
			d = d * 0.999 + k;
		for (int k = 0; k < 5000; k++)
			e = e * 0.999 + k;
		same(d, e, "doubles");
	}

	static final Map<Long, Object[]> objects = new HashMap<>();

	/** What lives longer than others, with links from old to new. */
	static void collected(long i) {
		for (int k = 0; k < 200; k++) {
			long key = (i * 200 + k) % 50000;
			objects.put(key, new Object[] { key, "v" + key, new byte[100], objects.get((key + 1) % 50000) == null });
			Object[] o = objects.get(key * 7919 % 50000);
			if (o != null)
				same(o[1], "v" + o[0], "an object");
		}
	}

	static final ExecutorService pool = Executors.newFixedThreadPool(4, r -> {
		Thread t = new Thread(r);
		t.setDaemon(true);
		return t;
	});

	static void pooled(long i) throws Exception {
		List<Future<Long>> all = new ArrayList<>();
		for (long k = 0; k < 20; k++) {
			long n = i + k;
			all.add(pool.submit(() -> n * n));
		}
		for (long k = 0; k < 20; k++)
			same(all.get((int) k).get(), (i + k) * (i + k), "the pool");
	}

	static final BlockingQueue<Long> queue = new ArrayBlockingQueue<>(10);
	static long left, right;

	static void locked(long i) {
		synchronized (Work.class) {
			same(left, right, "what a lock guards");
			left++;
			Thread.yield();
			right++;
		}
	}

	static void child(long i) throws Exception {
		Process p = new ProcessBuilder("sh", "-c", "read x; echo $((x + 1)); exit 3").start();
		try (Writer w = p.outputWriter()) {
			w.write(i + "\n");
		}
		try (BufferedReader r = p.inputReader()) {
			same(r.readLine(), String.valueOf(i + 1), "a child");
		}
		same(p.waitFor(), 3, "its status");
	}

	static void sleeps(long i) throws Exception {
		long before = System.nanoTime();
		Thread.sleep(5);
		if (System.nanoTime() - before < 5_000_000)
			throw new IllegalStateException("it slept too short");
	}

	static Step client(ServerSocket server) throws IOException {
		Socket s = new Socket("127.0.0.1", server.getLocalPort());
		DataOutputStream out = new DataOutputStream(new BufferedOutputStream(s.getOutputStream()));
		DataInputStream in = new DataInputStream(new BufferedInputStream(s.getInputStream()));
		return i -> {
			byte[] data = new byte[(int) (i % 30000)];
			Arrays.fill(data, (byte) i);
			out.writeInt(data.length);
			out.write(data);
			out.flush();
			byte[] back = new byte[in.readInt()];
			in.readFully(back);
			same(Arrays.equals(data, back), true, "an answer");
		};
	}

	static void serve(Socket s) {
		try (DataInputStream in = new DataInputStream(new BufferedInputStream(s.getInputStream()));
		     DataOutputStream out = new DataOutputStream(new BufferedOutputStream(s.getOutputStream()))) {
			for (;;) {
				byte[] data = new byte[in.readInt()];
				in.readFully(data);
				out.writeInt(data.length);
				out.write(data);
				out.flush();
			}
		} catch (IOException e) {
			if (!over)
				wrong.add("the server: " + e);
		}
	}

	static void tell(String name, String words) throws IOException {
		Files.writeString(Path.of(name + ".new"), words + "\n");
		Files.move(Path.of(name + ".new"), Path.of(name), StandardCopyOption.ATOMIC_MOVE);
	}

	public static void main(String[] args) throws Exception {
		ServerSocket server = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
		Thread t = new Thread(() -> {
			for (;;) {
				try {
					Socket s = server.accept();
					Thread each = new Thread(() -> serve(s));
					each.setDaemon(true);
					each.start();
				} catch (IOException e) {
					return;
				}
			}
		});
		t.setDaemon(true);
		t.start();
		worker("numbers", Work::numbers);
		worker("collected", Work::collected);
		worker("pooled", Work::pooled);
		worker("gives", i -> queue.put(i));
		worker("takes", i -> same(queue.take(), i, "the queue"));
		worker("locked", Work::locked);
		worker("locked too", Work::locked);
		worker("child", Work::child);
		worker("sleeps", Work::sleeps);
		worker("client", client(server));
		worker("client too", client(server));
		while (wrong.isEmpty() && !Files.exists(Path.of("enough"))) {
			tell("steps", String.valueOf(steps.values().stream().mapToLong(AtomicLong::get).min().getAsLong()));
			Thread.sleep(50);
		}
		tell("result", wrong.isEmpty() ? "well" : wrong.peek());
		System.exit(0);
	}
}
