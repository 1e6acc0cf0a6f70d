package main

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/specwatch/specwatch/pkg/api"
	"github.com/specwatch/specwatch/pkg/client"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/feed"
	"github.com/specwatch/specwatch/pkg/outbox"
	"github.com/specwatch/specwatch/pkg/questions"
	"github.com/specwatch/specwatch/pkg/state"
	"github.com/specwatch/specwatch/pkg/store"
)

const envGateway = "SPECWATCH_GATEWAY"

// destination is where events are written and read: a database or a gateway.
type destination struct {
	outbox.Destination
	box     outbox.Box // of events that are not written yet
	env     []string   // environment variables that name it for child processes
	store   *store.Store
	gateway *client.Gateway // nil: the store itself
}

// destination opens what flags or environment name. If both a database and a
// gateway are named in the same way, the database is used.
func (d *database) destination(ctx context.Context, stderr io.Writer) (*destination, error) {
	address := d.gateway
	if address == "" && d.url == "" && variable(envDatabaseURL) == "" {
		address = variable(envGateway)
	}
	if address != "" && d.url == "" {
		return throughGateway(address, d.gateway != "", stderr)
	}
	st, c, err := d.open(ctx)
	if err != nil {
		return nil, err
	}
	return &destination{
		Destination: st, store: st, box: box(c, stderr),
		env: []string{envDatabaseURL + "=" + c.URL, envSchema + "=" + c.Schema, envGateway + "="},
	}, nil
}

func throughGateway(address string, flag bool, stderr io.Writer) (*destination, error) {
	if u, err := url.Parse(address); err == nil && flag {
		if _, set := u.User.Password(); set {
			return nil, wrongUse{errors.New("--gateway carries a password, which every user of this machine could read; put it into " + envGateway)}
		}
	}
	gateway, err := client.New(address, variable(envWriteToken), variable(envReadToken))
	if err != nil {
		return nil, wrongUse{err}
	}
	d := &destination{Destination: gateway, gateway: gateway, env: []string{envGateway + "=" + address, envDatabaseURL + "="}}
	state, err := outbox.StateDir()
	if err != nil {
		say(stderr, err.Error())
		return d, nil
	}
	u := gateway.URL()
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	d.box = outbox.Open(state, "gateway", u.Scheme, net.JoinHostPort(canonicalHost(u.Hostname()), port), u.Path)
	return d, nil
}

func (d *destination) close() {
	if d.store != nil {
		d.store.Close()
	}
}

// away reports whether the error says that the destination cannot be reached or
// cannot answer, and not that the events or the settings are wrong.
func away(err error) bool {
	var unreachable *client.Unreachable
	var problem *store.Problem
	switch {
	case errors.As(err, &unreachable), errors.Is(err, context.DeadlineExceeded):
		return true
	case errors.As(err, &problem):
		return problem.Code == store.NoConnection || problem.Code == store.ReadOnly
	}
	return false
}

// all writes what next returns until it returns io.EOF, all or none. It returns
// how many events it took, and how many of these were stored before.
func (d *destination) all(ctx context.Context, next func() (event.Event, error)) (taken, known int64, err error) {
	if d.gateway == nil {
		return d.store.AppendAll(ctx, next)
	}
	var events []event.Event
	for {
		e, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, 0, err
		}
		if events = append(events, e); len(events) > event.MaxBatch {
			return 0, 0, wrongUsef("a gateway takes at most %d events at once, all or none; split the file", event.MaxBatch)
		}
	}
	receipt, err := d.gateway.Append(ctx, events)
	return int64(len(receipt.IDs)), int64(receipt.Known), err
}

// since reads after a cursor or a time; empty: the last five minutes.
func (d *destination) since(ctx context.Context, token string, limit int) (client.Page, error) {
	if d.gateway != nil {
		return d.gateway.Since(ctx, token, limit)
	}
	since, err := api.ParseSince(token)
	if err != nil {
		return client.Page{}, err
	}
	page, err := since.Read(ctx, d.store, limit)
	if err != nil {
		return client.Page{}, err
	}
	return client.Page{Events: page.Events, Cursor: page.Cursor.String(), More: page.More}, nil
}

// state is the overview.
func (d *destination) state(ctx context.Context) (state.State, error) {
	if d.gateway != nil {
		return d.gateway.State(ctx)
	}
	summary, page, err := questions.To(d.store).Load(ctx)
	// A stored summary may lack the latest events.
	for page.More = true; err == nil && page.More; {
		if page, err = d.store.Since(ctx, page.Cursor, event.MaxPage); err == nil {
			for _, e := range page.Events {
				summary.Add(e)
			}
		}
	}
	if err != nil {
		return state.State{}, err
	}
	st := summary.State(page.At)
	st.Delivery.Push = !d.store.Pooled()
	return st, nil
}

// follow passes the events after a cursor or a time to take, and then each new
// event. It ends with an error, or when take returns one.
func (d *destination) follow(ctx context.Context, token string, take func(client.Page) error) error {
	if d.gateway != nil {
		return d.gateway.Follow(ctx, token, take)
	}
	since, err := api.ParseSince(token)
	if err != nil {
		return err
	}
	// Check the database first: the feed would retry for ever.
	if err := d.store.Ready(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	f := feed.New(d.store)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = f.Run(ctx) // it ends because ctx does
	}()
	defer func() {
		cancel()
		<-ended
	}()
	subscription, missed, err := since.Subscribe(ctx, d.store, f, event.DefaultPage)
	if err != nil {
		return err
	}
	defer subscription.Close()
	if err := take(client.Page{Events: missed, Cursor: subscription.Cursor().String()}); err != nil {
		return err
	}
	for {
		changed := f.Changed()
		if !f.Stats().Connected {
			// A subscription only waits in an outage, and could not say so.
			if err := d.store.Ready(ctx); err != nil {
				return err
			}
			f.Look()
		}
		batch, err := subscription.Next(ctx, changed)
		if err != nil {
			return err
		}
		if batch == nil {
			continue
		}
		if err := take(client.Page{Events: batch.Events, Cursor: batch.Cursor.String()}); err != nil {
			return err
		}
	}
}

// sendTimeout bounds an attempt to write, for networks that drop packets.
const sendTimeout = 15 * time.Second

// put writes events, after older ones that are kept on disk. They are on disk first,
// and stay there if they cannot be written: then kept is the reason. The error is
// about the events themselves.
func (d *destination) put(ctx context.Context, events []event.Event, tell func(string)) (receipt event.Receipt, kept, err error) {
	p := d.keep(events)
	defer p.file.Close()
	return p.send(ctx, tell)
}

// pending are events that are on disk until they are written.
type pending struct {
	to     *destination
	events []event.Event
	file   *outbox.File
	onDisk error // why they are not on disk
}

// keep writes the events to disk.
func (d *destination) keep(events []event.Event) *pending {
	for i := range events {
		if events[i].Key == "" {
			events[i].Key = "emit-" + rand.Text() // so that it may be sent twice
		}
	}
	p := &pending{to: d, events: events, file: d.box.File()}
	p.onDisk = p.file.Append(stamped(events)...)
	return p
}

// send tries once, and may be called again while it returns kept. See put.
func (p *pending) send(ctx context.Context, tell func(string)) (receipt event.Receipt, kept, err error) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	if _, err = p.to.box.Send(ctx, p.to, tell); err == nil {
		receipt, err = p.to.Append(ctx, p.events)
	}
	var refused *event.FieldError
	switch {
	case err == nil, errors.As(err, &refused):
		p.file.Remove()
		return receipt, nil, err
	case p.onDisk != nil:
		return receipt, nil, errors.New(strings.TrimSpace(err.Error()) + "; it could not be kept either: " + p.onDisk.Error())
	}
	p.events = stamped(p.events) // they are written later than they happened
	return receipt, err, nil
}

// stamped returns the events with the time of this machine if they have none: they
// may be written later.
func stamped(events []event.Event) []event.Event {
	now := time.Now()
	all := make([]event.Event, len(events))
	for i, e := range events {
		if e.At.IsZero() {
			e.At = now
		}
		all[i] = e
	}
	return all
}
