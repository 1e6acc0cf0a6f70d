//go:build linux

// Command run makes a fault run and writes its table into a document.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/specwatch/specwatch/pkg/chaos"
)

func main() {
	o := chaos.Options{Log: os.Stdout}
	flag.IntVar(&o.Rounds, "rounds", 100, "how often each kind of fault is made")
	flag.Uint64Var(&o.Seed, "seed", rand.Uint64()>>11, "of the order of faults") // #nosec G404 -- no secret
	flag.StringVar(&o.Version, "postgresql", "", "major version of PostgreSQL (default: the one at hand)")
	flag.StringVar(&o.Folder, "logs", "", "`folder` for the logs (default: a temporary one, kept if something was wrong)")
	flag.IntVar(&o.AtOnce, "at-once", 0, "faults that overlap")
	flag.DurationVar(&o.Pause, "pause", 0, "between what one producer writes")
	only := flag.String("only", "", "parts of the names of the faults to make, with commas between them")
	into := flag.String("into", "", "`document` that gets the table")
	flag.Parse()
	if *only != "" {
		o.Only = strings.Split(*only, ",")
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, o, *into); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o chaos.Options, into string) error {
	report, err := chaos.Run(ctx, o)
	if err != nil {
		return err
	}
	fmt.Print(report.Text())
	if into != "" {
		if err := report.Write(into); err != nil {
			return err
		}
	}
	if !report.Sound() {
		return fmt.Errorf("something was lost, repeated, out of order or invented: run again with --seed %d, and look into the logs", o.Seed)
	}
	return nil
}
