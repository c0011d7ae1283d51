// Command bench measures the hot paths and writes the figures, each beside its
// physical limit, to a JSON file: an array of {name, value, unit, limit,
// limitName}. Run it from the root of the repository, on an idle machine, after
// `make build`.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strconv"
	"text/tabwriter"
)

// Figure is one measurement.
type Figure struct {
	Name      string  `json:"name"`
	Value     float64 `json:"value"`
	Unit      string  `json:"unit"`
	Limit     float64 `json:"limit"`
	LimitName string  `json:"limitName"`
}

// printTable prints what docs/performance.md shows.
func printTable(path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var figures []Figure
	if err := json.Unmarshal(raw, &figures); err != nil {
		return err
	}
	fmt.Print("| figure | value | limit or goal | of |\n|---|---:|---:|---|\n")
	for _, f := range figures {
		fmt.Printf("| `%s` | %s %s | %s | %s |\n", f.Name, short(f.Value), f.Unit, short(f.Limit), f.LimitName)
	}
	return nil
}

// short shows three digits, and all in front of the point.
func short(v float64) string {
	if v >= 100 || v <= -100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// bench collects the figures of one run.
type bench struct {
	figures []Figure
	limits  limits
}

func (b *bench) add(name string, value float64, unit string, limit float64, limitName string) {
	b.figures = append(b.figures, Figure{name, value, unit, limit, limitName})
	fmt.Fprintf(os.Stderr, "%-28s %10.2f %s\n", name, value, unit)
}

func main() {
	out := flag.String("o", "build/bench.json", "where to write the figures")
	bin := flag.String("bin", envOr("ASHLAR_BIN", "build/bin"), "directory with the binaries")
	only := flag.String("only", "", "verdict, activation, plan, renewal or push; empty for all")
	table := flag.String("doc", "", "print the figures of this file as a Markdown table, and measure nothing")
	flag.Parse()
	if *table != "" {
		if err := printTable(*table); err != nil {
			log.Fatal(err)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	b := &bench{limits: measureLimits()}
	if err := b.run(ctx, *bin, *only); err != nil {
		log.Fatal(err)
	}
	if err := b.write(*out); err != nil {
		log.Fatal(err)
	}
}

func envOr(name, fallback string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return fallback
}

func (b *bench) run(ctx context.Context, bin, only string) error {
	if only == "" || only == "verdict" {
		if err := b.verdicts(); err != nil {
			return fmt.Errorf("verdicts: %w", err)
		}
	}
	if only == "verdict" {
		return nil
	}
	d, err := startDaemon(ctx, bin)
	if d != nil {
		defer d.close()
	}
	if err != nil {
		return fmt.Errorf("starting the daemon: %w", err)
	}
	b.add("start.ready_ms", float64(d.started.Microseconds())/1000, "ms", 300, "goal")
	b.add("idle.rss_mb", d.idleRSS, "MB", 60, "goal")
	if only == "" || only == "activation" {
		if err := b.activations(ctx, d); err != nil {
			return fmt.Errorf("activations: %w", err)
		}
	}
	if only == "" || only == "plan" {
		if err := b.plans(ctx, d); err != nil {
			return fmt.Errorf("plans: %w", err)
		}
	}
	if only == "" || only == "push" {
		if err := b.pushes(ctx, d); err != nil {
			return fmt.Errorf("pushes: %w", err)
		}
	}
	if only == "" || only == "renewal" {
		if err := b.renewals(ctx, d); err != nil {
			return fmt.Errorf("renewals: %w", err)
		}
	}
	return nil
}

func (b *bench) write(path string) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "figure\tvalue\tunit\tlimit\tof")
	for _, f := range b.figures {
		fmt.Fprintf(w, "%s\t%.2f\t%s\t%.2f\t%s\n", f.Name, f.Value, f.Unit, f.Limit, f.LimitName)
	}
	w.Flush()
	raw, err := json.MarshalIndent(b.figures, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(raw, '\n'), 0o644)
}
