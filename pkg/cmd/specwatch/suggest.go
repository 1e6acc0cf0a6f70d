package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// didYouMean returns the end of an error that suggests similar names; empty if there
// is none. Cobra compares names of commands, so each name becomes a command.
func didYouMean(typed string, names ...string) string {
	var similar cobra.Command
	similar.SuggestionsMinimumDistance = 2
	for _, name := range names {
		similar.AddCommand(&cobra.Command{Use: name, Run: func(*cobra.Command, []string) {}})
	}
	found := similar.SuggestionsFor(typed)
	if len(found) == 0 {
		return ""
	}
	return "; did you mean " + strings.Join(found, " or ") + "?"
}

// knownCommand refuses a command that does not exist.
func knownCommand(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, cmd := range root.Commands() {
		if cmd.IsAvailableCommand() {
			names = append(names, cmd.Name())
		}
	}
	meant := didYouMean(args[0], names...)
	if meant == "" {
		meant = "; specwatch --help lists the commands"
	}
	return wrongUsef("unknown command %q%s", args[0], meant)
}

// explainFlag adds the flag that was probably meant to an error about one that
// does not exist.
func explainFlag(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return err
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, "--"+f.Name)
		}
	})
	meant := didYouMean("--"+unknown.GetSpecifiedName(), names...)
	if meant == "" {
		meant = "; " + cmd.CommandPath() + " --help lists the flags"
	}
	return wrongUsef("%w%s", err, meant)
}
