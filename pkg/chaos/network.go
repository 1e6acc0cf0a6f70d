//go:build linux

package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// network is a toxiproxy, whose links the faults cut and slow down. Its HTTP
// interface is asked directly, because the module of its client requires that
// of its server.
type network struct {
	server *program
	api    string
	client *http.Client
	ports  *ports
}

// attributes say how strong a toxic is.
type attributes map[string]int

func (r *run) startNetwork(ctx context.Context) error {
	port, err := r.ports.next()
	if err != nil {
		return err
	}
	log, err := r.logs.open("network")
	if err != nil {
		return err
	}
	server := &program{
		name: "network", path: filepath.Join(r.folder, "toxiproxy"), log: log,
		args: []string{"-host", "127.0.0.1", "-port", strconv.Itoa(port)}, env: []string{"LOG_LEVEL=error"}, died: r.faults.died("network"),
	}
	if err := server.start(); err != nil {
		return err
	}
	r.network = &network{
		server: server, api: "http://127.0.0.1:" + strconv.Itoa(port), client: &http.Client{Timeout: 10 * time.Second}, ports: r.ports,
	}
	for ctx.Err() == nil {
		if err := r.network.ask(http.MethodGet, "/version", nil); err == nil {
			return nil
		}
		wait(ctx, 20*time.Millisecond)
	}
	return ctx.Err()
}

func (n *network) ask(method, path string, body any) error {
	var text bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&text).Encode(body); err != nil {
			return err
		}
	}
	request, err := http.NewRequest(method, n.api+path, &text)
	if err != nil {
		return err
	}
	answer, err := n.client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode >= http.StatusMultipleChoices {
		err = fmt.Errorf("toxiproxy: %s %s: %s %s", method, path, answer.Status, said)
	}
	return err
}

// link is one way through the network, to a server.
type link struct {
	network *network
	name    string
	at      string // where it listens
	path    string // of toxiproxy's interface
}

func (n *network) link(name, to string) (*link, error) {
	port, err := n.ports.next()
	if err != nil {
		return nil, err
	}
	l := &link{network: n, name: name, at: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	proxy := strings.ReplaceAll(name, " ", "-")
	l.path = "/proxies/" + proxy
	return l, n.ask(http.MethodPost, "/proxies", map[string]any{"name": proxy, "listen": l.at, "upstream": to, "enabled": true})
}

// enable lets traffic through, or cuts every connection and refuses new ones.
func (l *link) enable(on bool) error {
	return l.network.ask(http.MethodPost, l.path, map[string]bool{"enabled": on})
}

func (l *link) addToxic(kind, stream string, strength attributes) error {
	return l.network.ask(http.MethodPost, l.path+"/toxics", map[string]any{
		"name": kind, "type": kind, "stream": stream, "toxicity": 1, "attributes": strength,
	})
}

func (l *link) removeToxic(kind string) error {
	return l.network.ask(http.MethodDelete, l.path+"/toxics/"+kind, nil)
}
