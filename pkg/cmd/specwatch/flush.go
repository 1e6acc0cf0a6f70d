package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/specwatch/specwatch/pkg/outbox"
)

func newFlush(db *database) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "flush",
		Short: "Write the events that were kept on disk while the database was away",
		Long: `Writes the events that earlier commands kept on disk because the database, or the
gateway, was away, and prints how many were stored and how many were known already.
It says how many files are kept for other databases. "specwatch run" and "specwatch
emit" do the same before they write their own events.`,
		Args: cobra.NoArgs,
	}
	var background bool
	cmd.Flags().BoolVar(&background, "background", false, "print nothing, and leave the work to another process that is doing it")
	_ = cmd.Flags().MarkHidden("background") // hook uses it
	cmd.RunE = does(func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := untilSignal(cmd.Context())
		defer cancel()
		to, err := db.destination(ctx, cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		defer to.close()
		if background {
			_ = to.box.SendAlone(ctx, to) // the rest stays on disk
			return nil
		}
		sent, err := to.box.Send(ctx, to, func(text string) { say(cmd.ErrOrStderr(), text) })
		if err != nil {
			return err
		}
		if others := elsewhere(to.box); others > 0 {
			say(cmd.ErrOrStderr(), fmt.Sprintf("files of events that are kept for other databases or gateways: %d; name them to write those", others))
		}
		return emitted{Stored: int64(sent.Stored), Known: int64(sent.Known)}.print(cmd, outputText)
	})
	return cmd
}

// elsewhere counts the files that are kept for other destinations.
func elsewhere(own outbox.Box) (files int) {
	all, _ := filepath.Glob(filepath.Join(filepath.Dir(own.Dir), "*", "*.jsonl"))
	for _, file := range all {
		if filepath.Dir(file) != own.Dir {
			files++
		}
	}
	return files
}

// deliver tries once to send the events of a killed runner; the rest stays on disk.
func deliver(db *database) func(dir string) {
	return func(string) {
		ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
		defer cancel()
		to, err := db.destination(ctx, os.Stderr)
		if err != nil {
			return
		}
		defer to.close()
		_, _ = to.box.Send(ctx, to, func(string) {})
	}
}
