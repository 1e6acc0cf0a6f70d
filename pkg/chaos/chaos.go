//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options of a run. The zero value of each but Log has a meaning.
type Options struct {
	Rounds   int           // of each kind of fault; 0: one
	Seed     uint64        // of the order and the length of faults
	Version  string        // of PostgreSQL; empty: the one at hand
	Folder   string        // for logs; empty: a temporary one, which is kept only if something was wrong
	Only     []string      // parts of the names of faults; empty: all
	AtOnce   int           // faults that overlap; 0: five
	Pause    time.Duration // between what one producer writes; 0: 20 ms
	CatchUp  time.Duration // that clients get at the end; 0: a minute
	Progress time.Duration // between lines of progress; 0: five seconds
	Log      io.Writer     // receives the progress
}

func (o *Options) fill() {
	o.Rounds = max(o.Rounds, 1)
	for set, value := range map[*time.Duration]time.Duration{&o.Pause: 20 * time.Millisecond, &o.CatchUp: time.Minute, &o.Progress: 5 * time.Second} {
		if *set == 0 {
			*set = value
		}
	}
	if o.AtOnce == 0 {
		o.AtOnce = 5
	}
}

func (o *Options) wants(name string) bool {
	return len(o.Only) == 0 || slices.ContainsFunc(o.Only, func(part string) bool { return strings.Contains(name, part) })
}

// Run starts the scenarios, injects the faults and compares. The error is about
// the run itself; wrong deliveries are in the report.
func Run(ctx context.Context, o Options) (report *Report, err error) {
	o.fill()
	r := &run{options: o, faults: &journal{counts: map[string]int{}, failed: map[string]int{}, begun: time.Now()}}
	r.ports = &ports{rng: r.random("ports " + fmt.Sprint(os.Getpid())), gave: map[int]bool{}}
	if r.folder, err = os.MkdirTemp("", "specwatch-chaos-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(r.folder)
	if err := os.Chmod(r.folder, 0o755); err != nil { // PostgreSQL may run as another user
		return nil, err
	}
	keep := o.Folder != ""
	if !keep {
		if o.Folder, err = os.MkdirTemp("", "specwatch-chaos-logs-"); err != nil {
			return nil, err
		}
		defer func() {
			if err == nil && report.Sound() {
				os.RemoveAll(o.Folder)
			}
		}()
	} else if err := os.MkdirAll(o.Folder, 0o755); err != nil {
		return nil, err
	}
	r.logs = &logs{folder: o.Folder}
	defer r.logs.close()
	if r.faults.log, err = r.logs.open("faults"); err != nil {
		return nil, err
	}
	fmt.Fprintf(o.Log, "seed %d, logs in %s\n", o.Seed, o.Folder)

	fmt.Fprintln(o.Log, "building the executables")
	if err := r.build(ctx); err != nil {
		return nil, err
	}
	living, end := context.WithCancel(ctx)
	defer r.parts.Wait()
	defer end()
	if err := r.startNetwork(ctx); err != nil {
		return nil, err
	}
	defer r.network.server.kill()

	report = &Report{Options: o, journal: r.faults}
	report.Version, err = r.clusterPart(ctx, living, report)
	if err != nil {
		return nil, fmt.Errorf("%w (seed %d, logs in %s)", err, o.Seed, o.Folder)
	}
	report.Lasted = time.Since(r.faults.begun)
	report.Written = r.told.Load()
	return report, nil
}

func (r *run) clusterPart(ctx, living context.Context, report *Report) (version string, err error) {
	fmt.Fprintln(r.options.Log, "starting servers, gateways, plugin and clients")
	a, err := r.newCluster(living)
	defer a.close()
	if err != nil {
		return "", err
	}
	report.Missing = append(report.Missing, a.missing...)
	number, err := number(ctx, a.primary.URL(), "SELECT current_setting('server_version_num')::int / 10000")
	if err != nil {
		return "", err
	}
	version = fmt.Sprint(number)

	if err := a.disturb(ctx, living, report); err != nil {
		return version, err
	}
	return version, a.judge(ctx, report)
}

// disturb lets the producers write and injects all faults, those of the
// episodes, too.
func (a *cluster) disturb(ctx, living context.Context, report *Report) error {
	producing, stopProducing := context.WithCancel(living)
	defer stopProducing()
	produced := a.produce(producing)

	// The episodes run at the same time.
	var beside sync.WaitGroup
	defer beside.Wait()
	episodes, stopEpisodes := context.WithCancel(living)
	defer stopEpisodes()
	besideErrors := make(chan error, 8)
	for _, episode := range a.episodes(report) {
		beside.Go(func() { besideErrors <- episode(episodes) })
	}

	telling, stopTelling := context.WithCancel(ctx)
	var told sync.WaitGroup
	told.Go(func() { a.tell(telling) })
	err := a.injectAll(ctx)
	stopProducing()
	produced()
	healed := a.up(ctx)
	beside.Wait()
	stopTelling()
	told.Wait()
	close(besideErrors)
	for failed := range besideErrors {
		err = errors.Join(err, failed)
	}
	return errors.Join(err, healed, ctx.Err())
}

// judge waits for the clients, once there are no more faults, and compares them
// with the table.
func (a *cluster) judge(ctx context.Context, report *Report) error {
	fmt.Fprintln(a.options.Log, "all faults are removed; waiting for the clients")
	if err := execute(ctx, a.standby.URL(), "SELECT pg_wal_replay_resume()"); err != nil {
		return err
	}
	for _, c := range a.clients {
		c.hurry.Store(true)
	}
	stuck, err := a.settle(ctx, a.primary.URL(), a.chains())
	if err != nil {
		return err
	}
	t, err := readTruth(ctx, a.primary.URL())
	if err != nil {
		return err
	}
	report.compare(mainScenario, t, a.chains(), stuck, a.writing, false)
	for _, p := range a.gateways {
		if err := report.count(ctx, p, len(t.rows)); err != nil {
			return err
		}
		report.slowStops += p.slow
		report.worstStop = max(report.worstStop, p.worst)
	}
	return nil
}

// injectAll injects each kind of fault as often as requested, in random order,
// several at once.
func (a *cluster) injectAll(ctx context.Context) error {
	type turn struct {
		fault
		rng *rand.Rand
		on  string
	}
	var turns []*turn
	for _, f := range a.kinds() {
		if !a.options.wants(f.name) {
			continue
		}
		rng := a.random(f.name)
		for range a.options.Rounds {
			t := &turn{fault: f, rng: rand.New(rand.NewPCG(rng.Uint64(), 1))} // #nosec G404 -- the seed repeats it
			if f.touches != nil {
				t.on = f.touches(t.rng)
			}
			turns = append(turns, t)
		}
	}
	a.planned.Add(int64(len(turns)))
	a.rng.Shuffle(len(turns), func(i, k int) { turns[i], turns[k] = turns[k], turns[i] })

	var mu sync.Mutex
	// next finds a fault whose target is not in use.
	next := func() (found *turn, left bool) {
		mu.Lock()
		defer mu.Unlock()
		for i, t := range turns {
			if t.on == "" || a.busy[t.on].TryLock() {
				turns = slices.Delete(turns, i, i+1)
				return t, true
			}
		}
		return nil, len(turns) > 0
	}
	var workers sync.WaitGroup
	for range a.options.AtOnce {
		workers.Go(func() {
			for ctx.Err() == nil {
				t, left := next()
				if !left {
					return
				}
				if t == nil {
					wait(ctx, 20*time.Millisecond)
					continue
				}
				a.strike(ctx, t.fault, t.rng, t.on)
				if t.on != "" {
					a.busy[t.on].Unlock()
				}
				lasting(ctx, t.rng, 0, 100*time.Millisecond)
			}
		})
	}
	workers.Wait()
	return ctx.Err()
}

// strike injects one fault; other faults may prevent it, so it tries again.
func (a *cluster) strike(ctx context.Context, f fault, rng *rand.Rand, on string) {
	for attempt := 0; ctx.Err() == nil; attempt++ {
		from := time.Now()
		err := f.strike(ctx, rng, on)
		if err == nil {
			a.faults.note(mainScenario, f.name, from, time.Now(), nil)
			return
		}
		a.faults.trouble(f.name, err)
		if attempt == 200 {
			a.faults.note(mainScenario, f.name, from, time.Now(), err)
			return
		}
		lasting(ctx, rng, 100*time.Millisecond, 500*time.Millisecond)
	}
}

// tell writes a line every few seconds.
func (a *cluster) tell(ctx context.Context) {
	again := time.NewTicker(a.options.Progress)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
		var deliveries int64
		var repeated, notices int
		for _, c := range a.chains() {
			c.mu.Lock()
			deliveries += c.taken
			repeated += len(c.repeated) + len(c.reused)
			notices += c.notices
			c.mu.Unlock()
		}
		fmt.Fprintf(a.options.Log, "%5s  %d of %d faults, %d events written, %d deliveries, %d repeated, %d notices\n",
			time.Since(a.faults.begun).Round(time.Second), a.faults.total(), a.planned.Load(), a.told.Load(), deliveries, repeated, notices)
	}
}
