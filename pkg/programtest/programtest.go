// Package programtest runs real programs in tests, and waits for what they do.
package programtest

import (
	"bytes"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/embedded"
)

// patience is long enough for a loaded machine. A test that passes never uses it up.
const patience = 4 * time.Minute

// Until waits for a condition, and fails the test if it does not come true. what is
// the condition in words.
func Until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// FreePort is that of package embedded, as text.
func FreePort(t testing.TB) string {
	t.Helper()
	port, err := embedded.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(port)
}

// Output is what a program prints. It can be read while the program runs.
type Output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
