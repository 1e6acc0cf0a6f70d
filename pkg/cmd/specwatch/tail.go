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

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/store"
)

func newTail(db *database) *cobra.Command {
	var since string
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Print events as JSON Lines as they arrive",
		Long: `Prints events as JSON Lines as they arrive, each once. When the database goes
away, goes on where it was once it is back. When interrupted, tells on standard
error the cursor with which the next tail goes on.`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringVar(&since, "since", "", "`cursor`, or RFC 3339 time (default: the last five minutes)")
	cmd.Flags().DurationVar(&interval, "interval", 500*time.Millisecond, "how `often` to look")
	cmd.RunE = does(func(cmd *cobra.Command, _ []string) error {
		if interval <= 0 {
			return wrongUsef("--interval must be more than 0, not %s", interval)
		}
		var at cursor.Cursor
		var from time.Time
		if since != "" {
			var err error
			if from, err = event.ParseTime(since); err != nil {
				if at, err = cursor.Parse(since); err != nil {
					return wrongUsef("--since is neither a cursor nor an RFC 3339 time with its zone: %w", err)
				}
			}
		}
		ctx, cancel := untilSignal(cmd.Context())
		defer cancel()
		st, _, err := db.open(ctx)
		if err != nil {
			return err
		}
		defer st.Close()
		t := tail{store: st, interval: interval, out: bufio.NewWriter(cmd.OutOrStdout()), err: cmd.ErrOrStderr(), at: at}
		return t.follow(ctx, from)
	})
	return cmd
}

// tail follows the events by cursor.
type tail struct {
	store    *store.Store
	interval time.Duration
	out      *bufio.Writer
	err      io.Writer
	at       cursor.Cursor // what is printed
}

// follow prints until ctx ends. The first read must succeed, so that a wrong
// address is told at once; from then on an outage is waited out.
func (t *tail) follow(ctx context.Context, from time.Time) error {
	var page store.Page
	var err error
	if from.IsZero() {
		page, err = t.store.Since(ctx, t.at, event.DefaultPage)
	} else {
		page, err = t.store.SinceTime(ctx, from, event.DefaultPage)
	}
	for err == nil {
		if err := t.print(page); err != nil {
			return err
		}
		if !page.More {
			select {
			case <-ctx.Done():
			case <-time.After(t.interval):
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
	if !t.at.IsZero() {
		say(t.err, "to go on from here: specwatch tail --since "+t.at.String())
	}
	return nil
}

// read reads on, for as long as it takes.
func (t *tail) read(ctx context.Context) (store.Page, error) {
	delay := backoff.NewExponentialBackOff()
	delay.InitialInterval = 100 * time.Millisecond
	delay.MaxInterval = 5 * time.Second
	told := false
	return backoff.Retry(ctx, func() (store.Page, error) {
		page, err := t.store.Since(ctx, t.at, event.DefaultPage)
		if errors.Is(err, store.ErrExpired) {
			return page, backoff.Permanent(err)
		}
		if err != nil && !told && ctx.Err() == nil {
			told = true
			say(t.err, fmt.Sprintf("cannot read now (%s); going on once the database is back", err))
		}
		return page, err
	}, backoff.WithBackOff(delay), backoff.WithMaxElapsedTime(0))
}

func (t *tail) print(page store.Page) error {
	for _, e := range page.Events {
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		t.out.Write(line)     //nolint:errcheck // Flush tells
		t.out.WriteByte('\n') //nolint:errcheck // Flush tells
	}
	t.at = page.Cursor
	return t.out.Flush()
}
