package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/spf13/cobra"

	"github.com/specwatch/specwatch/pkg/api"
	"github.com/specwatch/specwatch/pkg/client"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/store"
)

func newTail(db *database) *cobra.Command {
	var since string
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Print events as JSON Lines as they arrive",
		Long: `Prints events as JSON Lines as they arrive, each once. New events are pushed; with
--interval it reads them at that interval instead. When the database is away, it
waits and then continues where it was. When you interrupt it, it prints on standard
error the cursor with which the next tail continues.`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringVar(&since, "since", "", "`cursor` or RFC 3339 time to start after (default: five minutes ago)")
	cmd.Flags().DurationVar(&interval, "interval", 500*time.Millisecond, "`duration` between two reads; with it, new events are not pushed")
	cmd.RunE = does(func(cmd *cobra.Command, _ []string) error {
		if interval <= 0 {
			return wrongUsef("--interval must be more than 0, not %s", interval)
		}
		if _, err := api.ParseSince(since); err != nil {
			return wrongUsef("--since is neither a cursor nor an RFC 3339 time with its zone: %w", err)
		}
		ctx, cancel := untilSignal(cmd.Context())
		defer cancel()
		from, err := db.destination(ctx, cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		defer from.close()
		if since == "" && isTerminal(cmd.OutOrStdout()) {
			advise(cmd.ErrOrStderr(), "events of the last five minutes, and new ones; --since starts earlier")
		}
		t := tail{from: from, push: !cmd.Flags().Changed("interval"), interval: interval, out: bufio.NewWriter(cmd.OutOrStdout()), err: cmd.ErrOrStderr(), at: since}
		return t.follow(ctx)
	})
	return cmd
}

// tail follows the events by cursor.
type tail struct {
	from     *destination
	push     bool          // follow while that works, and read at the interval else
	interval time.Duration // between two reads
	refollow time.Time     // when it may follow again
	out      *bufio.Writer
	err      io.Writer
	at       string // the cursor of what is printed
	printed  bool
}

// follow prints until ctx ends. The first read must succeed, so that a wrong address
// is reported at once; later it waits for the end of outages.
func (t *tail) follow(ctx context.Context) error {
	page, err := t.from.since(ctx, t.at, event.DefaultPage)
	for err == nil {
		if err := t.print(page); err != nil {
			return err
		}
		if !page.More {
			if err := t.wait(ctx); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			break
		}
		page, err = t.read(ctx)
	}
	if ctx.Err() == nil {
		return err
	}
	if t.printed {
		say(t.err, "to continue from here: specwatch tail --since "+t.at)
	}
	return nil
}

// refollowPause is how long it reads at the interval after it could not follow: a
// proxy may not pass WebSockets on.
const refollowPause = 5 * time.Second

// wait waits until there may be more to read. What is pushed meanwhile is printed. The
// error is that of the output: why nothing is pushed any more, the next read tells.
func (t *tail) wait(ctx context.Context) (err error) {
	if t.push && time.Now().After(t.refollow) {
		_ = t.from.follow(ctx, t.at, func(page client.Page) error {
			err = t.print(page)
			return err
		})
		t.refollow = time.Now().Add(refollowPause)
		return err
	}
	select {
	case <-ctx.Done():
	case <-time.After(t.interval):
	}
	return nil
}

// read retries until it succeeds.
func (t *tail) read(ctx context.Context) (client.Page, error) {
	delay := backoff.NewExponentialBackOff()
	delay.InitialInterval = 100 * time.Millisecond
	delay.MaxInterval = 5 * time.Second
	told := false
	return backoff.Retry(ctx, func() (client.Page, error) {
		page, err := t.from.since(ctx, t.at, event.DefaultPage)
		if errors.Is(err, store.ErrExpired) {
			return page, backoff.Permanent(err)
		}
		if err != nil && !told && ctx.Err() == nil {
			told = true
			say(t.err, fmt.Sprintf("cannot read now (%s); continuing when the database is back", err))
		}
		return page, err
	}, backoff.WithBackOff(delay), backoff.WithMaxElapsedTime(0))
}

func (t *tail) print(page client.Page) error {
	for _, e := range page.Events {
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		t.out.Write(line)     //nolint:errcheck // Flush tells
		t.out.WriteByte('\n') //nolint:errcheck // Flush tells
	}
	t.at, t.printed = page.Cursor, true
	return t.out.Flush()
}
