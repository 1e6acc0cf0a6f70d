package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
)

// outputFormat is the value of --output.
type outputFormat string

const (
	outputText outputFormat = "text"
	outputJSON outputFormat = "json"
)

// addTo gives a command the flag --output.
func (o *outputFormat) addTo(cmd *cobra.Command) {
	*o = outputText
	cmd.Flags().Var(o, "output", "`format` of what is printed: text or json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]cobra.Completion{string(outputText), string(outputJSON)}, cobra.ShellCompDirectiveNoFileComp))
}

func (o *outputFormat) String() string { return string(*o) }
func (o *outputFormat) Type() string   { return "format" }

func (o *outputFormat) Set(text string) error {
	switch value := outputFormat(text); value {
	case outputText, outputJSON:
		*o = value
		return nil
	}
	return fmt.Errorf("it is text or json%s", didYouMean(text, string(outputText), string(outputJSON)))
}

// printJSON prints one line of JSON.
func printJSON(cmd *cobra.Command, value any) error {
	text, err := json.Marshal(value)
	if err == nil {
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", text)
	}
	return err
}
