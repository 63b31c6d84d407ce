// A server and its clients with many goroutines, timers, children and much to collect; each looks at
// what it gets. Until ./enough is there ./steps has the least that anyone has done; then ./result has
// "well" or what was wrong.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

var wrong = make(chan string, 1000)
var names []string
var steps []*int64

func worker(name string, step func(i int64) error) {
	count := new(int64)
	names, steps = append(names, name), append(steps, count)
	go func() {
		for i := int64(0); ; i++ {
			if err := step(i); err != nil {
				wrong <- name + ": " + err.Error()
				return
			}
			atomic.AddInt64(count, 1)
		}
	}()
}

func sum(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }

// A client of the server by connections that stay open
func request(address string, client *http.Client) func(int64) error {
	return func(i int64) error {
		body := bytes.Repeat([]byte{byte(i)}, int(i%50000))
		answer, err := client.Post(fmt.Sprintf("http://%s/%d", address, i), "text/plain", bytes.NewReader(body))
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if want := fmt.Sprintf("/%d %s", i, sum(body)); err != nil || string(text) != want {
			return fmt.Errorf("%q (%v) is not %q", text, err, want)
		}
		return nil
	}
}

type node struct {
	left, right *node
	n           int64
}

func tree(depth int, n int64) *node {
	if depth == 0 {
		return &node{nil, nil, n}
	}
	return &node{tree(depth-1, 2*n), tree(depth-1, 2*n+1), n}
}

func (t *node) sum() int64 {
	if t.left == nil {
		return t.n
	}
	return t.left.sum() + t.right.sum()
}

var kept [64]*node

func collected(i int64) error {
	kept[i%64] = tree(10, i)
	for k, t := range kept {
		if t != nil {
			// the sum of 2^10 leaves that begin at n * 2^10
			if want := t.n<<20 + 1023*1024/2; t.sum() != want {
				return fmt.Errorf("tree %d of %d: %d is not %d", k, t.n, t.sum(), want)
			}
		}
	}
	return nil
}

func ring(i int64) error {
	first := make(chan int64)
	in := first
	for k := 0; k < 100; k++ {
		out := make(chan int64)
		go func(in, out chan int64) { out <- 1 + <-in }(in, out)
		in = out
	}
	first <- i
	if got := <-in; got != i+100 {
		return fmt.Errorf("%d is not %d", got, i+100)
	}
	return nil
}

func child(i int64) error {
	out, err := exec.Command("sh", "-c", fmt.Sprintf("echo $((%d + 1))", i)).Output()
	if err != nil || string(out) != fmt.Sprintf("%d\n", i+1) {
		return fmt.Errorf("%q %v", out, err)
	}
	return nil
}

func timers(i int64) error {
	before := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
	defer cancel()
	<-ctx.Done()
	if time.Since(before) < 5*time.Millisecond {
		return fmt.Errorf("%v is too short", time.Since(before))
	}
	return nil
}

// A thread of its own, which the kernel stops in the middle of its work
func locked() func(int64) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	return func(i int64) error {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := syscall.Kill(os.Getpid(), syscall.SIGUSR1); err != nil {
			return err
		}
		<-signals
		return nil
	}
}

func raw(listener net.Listener) func(int64) error {
	go func() {
		c, _ := listener.Accept()
		io.Copy(c, c)
	}()
	c, err := net.Dial("unix", listener.Addr().String())
	return func(i int64) error {
		if err != nil {
			return err
		}
		data, back := bytes.Repeat([]byte{byte(i)}, 1000), make([]byte, 1000)
		if _, err := c.Write(data); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, back); err != nil || !bytes.Equal(data, back) {
			return fmt.Errorf("not what was sent (%v)", err)
		}
		return nil
	}
}

func tell(name, words string) {
	os.WriteFile(name+".new", []byte(words+"\n"), 0o644)
	os.Rename(name+".new", name)
}

func main() {
	var mutex sync.Mutex
	served := map[string]int{}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mutex.Lock()
		served[r.URL.Path]++
		mutex.Unlock()
		io.WriteString(w, r.URL.Path+" "+sum(body))
	}))
	for k := 0; k < 4; k++ {
		worker(fmt.Sprint("client ", k), request(listener.Addr().String(), &http.Client{Transport: &http.Transport{}}))
	}
	local, err := net.Listen("unix", "work.socket")
	if err != nil {
		panic(err)
	}
	worker("trees", collected)
	worker("ring", ring)
	worker("child", child)
	worker("timers", timers)
	worker("signals", locked())
	worker("unix", raw(local))
	for {
		_, err := os.Stat("enough")
		if err == nil || len(wrong) > 0 {
			break
		}
		least := atomic.LoadInt64(steps[0])
		for _, s := range steps {
			if n := atomic.LoadInt64(s); n < least {
				least = n
			}
		}
		tell("steps", fmt.Sprint(least))
		time.Sleep(50 * time.Millisecond)
	}
	mutex.Lock()
	for path, n := range served {
		if n > 4 {
			wrong <- fmt.Sprint(path, " was asked for ", n, " times")
		}
	}
	words := []string{}
	for len(wrong) > 0 {
		words = append(words, <-wrong)
	}
	if len(words) == 0 {
		words = append(words, "well")
	}
	tell("result", strings.Join(words, "; "))
}
