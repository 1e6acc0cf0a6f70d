//go:build linux

package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const pollers = 8

// idlePoll is a poll whose answer has nothing new.
type idlePoll struct{ path, tag string }

// settled polls until an answer repeats itself: nothing is new.
func (p *process) settled(ctx context.Context) (s idlePoll, err error) {
	cursor, err := p.here(ctx)
	if err != nil {
		return s, err
	}
	_, header, err := p.poll(ctx, http.DefaultClient, cursor, "")
	if err != nil {
		return s, err
	}
	return idlePoll{"/api/status?limit=5000&since=" + url.QueryEscape(cursor), header.Get("ETag")}, nil
}

// wire asks once and returns how many bytes the answer has, headers too.
func (p *process) wire(s idlePoll) (n int, status string, err error) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.base, "http://"))
	if err != nil {
		return 0, "", err
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: %s\r\nConnection: close\r\n\r\n", s.path, s.tag)
	text, err := io.ReadAll(conn)
	status, _, _ = strings.Cut(string(text), "\r\n")
	return len(text), status, err
}

// ask sends requests over so many connections, one after the other on each,
// and returns how many are answered in a second and how long one takes.
func (p *process) ask(ctx context.Context, path, tag string, conns int, span time.Duration) (rate float64, p50 time.Duration, err error) {
	var asking sync.WaitGroup
	var answered atomic.Int64
	var mu sync.Mutex
	var times []time.Duration
	failed := make(chan error, conns)
	began := time.Now()
	for range conns {
		asking.Go(func() {
			conn, err := net.Dial("tcp", strings.TrimPrefix(p.base, "http://"))
			if err != nil {
				failed <- err
				return
			}
			defer conn.Close()
			answers := bufio.NewReader(conn)
			request := "GET " + path + " HTTP/1.1\r\nHost: localhost\r\n"
			if tag != "" {
				request += "If-None-Match: " + tag + "\r\n"
			}
			request += "\r\n"
			var own []time.Duration
			for time.Since(began) < span && ctx.Err() == nil {
				asked := time.Now()
				if _, err := io.WriteString(conn, request); err != nil {
					failed <- err
					return
				}
				resp, err := http.ReadResponse(answers, nil)
				if err != nil {
					failed <- err
					return
				}
				io.Copy(io.Discard, resp.Body) //nolint:errcheck // the next answer tells
				resp.Body.Close()
				if resp.StatusCode >= 400 {
					failed <- fmt.Errorf("%s is answered %s", path, resp.Status)
					return
				}
				own = append(own, time.Since(asked))
			}
			answered.Add(int64(len(own)))
			mu.Lock()
			times = append(times, own...)
			mu.Unlock()
		})
	}
	asking.Wait()
	select {
	case err := <-failed:
		return 0, 0, err
	default:
		return float64(answered.Load()) / time.Since(began).Seconds(), median(times), nil
	}
}

func (w *world) polls(ctx context.Context) ([]Line, error) {
	database, err := w.database(ctx, "polls")
	if err != nil {
		return nil, err
	}
	defer w.drop("polls")
	if err := w.fill(ctx, database, smallRows); err != nil {
		return nil, err
	}
	gateway, err := w.gateway(ctx, database)
	if err != nil {
		return nil, err
	}
	s, err := gateway.settled(ctx)
	if err != nil {
		return nil, err
	}
	bytes, status, err := gateway.wire(s)
	if err != nil {
		return nil, err
	}
	const span = 2 * time.Second
	var ratios, own, health, reads []float64
	err = w.profile(gateway, "polls", time.Duration(2*w.Rounds)*span, func() error {
		for round := range w.Rounds {
			before, err := gateway.metric("specwatch_feed_reads_total")
			if err != nil {
				return err
			}
			rate, _, err := gateway.ask(ctx, s.path, s.tag, pollers, span)
			if err != nil {
				return err
			}
			after, err := gateway.metric("specwatch_feed_reads_total")
			if err != nil {
				return err
			}
			floor, _, err := gateway.ask(ctx, "/healthz", "", pollers, span)
			if err != nil {
				return err
			}
			own, health, ratios, reads = append(own, rate), append(health, floor), append(ratios, rate/floor), append(reads, (after-before)/(rate*span.Seconds()))
			w.say("polls with nothing new, round %d: %.0f/s, %.3f reads of the database each, /healthz %.0f/s", round+1, rate, reads[round], floor)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	work := "a poll with nothing new"
	return []Line{
		{work + ": bytes", fmt.Sprintf("%d bytes with headers (%s)", bytes, status), "", "", "≤ 300", reaches(bytes <= 300)},
		{work + ": reads of the database", fmt.Sprintf("%.3f for each", median(reads)), "", "", "from memory", reaches(median(reads) < 0.05)},
		{work + ": rate", fmt.Sprintf("%.0f/s", median(own)), fmt.Sprintf("/healthz: %.0f/s", median(health)), fmt.Sprintf("%.2f", median(ratios)), "≥ 0.5", reaches(median(ratios) >= 0.5)},
	}, nil
}
