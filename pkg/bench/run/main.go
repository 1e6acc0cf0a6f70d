//go:build linux

// Command run measures Specwatch and prints the table.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/specwatch/specwatch/pkg/bench"
)

func main() {
	o := bench.Options{Log: os.Stderr}
	flag.StringVar(&o.Specwatch, "specwatch", "bin/specwatch", "`executable` that is measured")
	flag.StringVar(&o.Centrifugo, "centrifugo", "", "`executable` of Centrifugo, to measure its outbox consumer beside it")
	flag.IntVar(&o.Rows, "rows", 10_000_000, "of the large table")
	flag.IntVar(&o.Clients, "clients", 2_000, "that are idle")
	flag.IntVar(&o.Rounds, "rounds", 3, "of each comparison")
	flag.DurationVar(&o.Span, "span", 4*time.Second, "of one round of latencies")
	flag.StringVar(&o.Version, "postgresql", "", "major version of PostgreSQL (default: the one at hand)")
	flag.StringVar(&o.Profiles, "profiles", "", "`folder` that gets profiles of the gateway")
	only := flag.String("only", "", "parts of the names of the measurements to make, with commas between them: latency, writers, burst, backlog, clients, polls, large")
	into := flag.String("into", "", "`document` that gets the table")
	floor := flag.Bool("floor", false, "run the bare program over $SPECWATCH_BENCH_DATABASE_URL, to compare with")
	flag.Parse()
	if *only != "" {
		o.Only = strings.Split(*only, ",")
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, o, *into, *floor); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o bench.Options, into string, floor bool) error {
	if floor {
		return bench.Floor(ctx, os.Getenv("SPECWATCH_BENCH_DATABASE_URL"), func(address string) { fmt.Println(address) })
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	o.Floor = []string{self, "-floor"}
	report, err := bench.Run(ctx, o)
	if err != nil {
		return err
	}
	fmt.Print(report.Markdown())
	if into != "" {
		if err := report.Write(into); err != nil {
			return err
		}
	}
	if report.Failed() {
		return errors.New("something could not be measured: see the table")
	}
	return nil
}
