//go:build linux

package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// series is a line of a plot.
type series struct {
	name, color string
	y           func(p point) float64 // 0 where there is none
}

// panel is a plot with two logarithmic axes.
type panel struct {
	title    string
	low, top int // powers of ten of the vertical axis
	series   []series
}

// Sizes in pixels.
const (
	panelWidth, panelHeight = 400, 300
	marginLeft, marginTop   = 70, 40
	panelStep               = marginLeft + panelWidth + 30
	legendLine              = 18
)

// scalePlot draws time and memory against N as SVG.
func scalePlot(points []point) []byte {
	panels := []panel{
		{"seconds", -4, 3, []series{
			{"first backup of N files", "#1b6ca8", func(p point) float64 { return p.first.wall.Seconds() }},
			{"incremental of N files", "#c8553d", func(p point) float64 { return p.again.wall.Seconds() }},
			{"the same, in 256 MiB", "#8a5a9e", func(p point) float64 { return p.limited.wall.Seconds() }},
			{"incremental of 1,000 files, N more stored", "#3a7d44", func(p point) float64 { return p.small.wall.Seconds() }},
			{"opening the index of N blobs", "#777777", func(p point) float64 { return p.open / 1e9 }},
		}},
		{"anonymous memory, MiB", 0, 3, []series{
			{"first backup of N files", "#1b6ca8", func(p point) float64 { return mib(p.first.anon) }},
			{"incremental of N files", "#c8553d", func(p point) float64 { return mib(p.again.anon) }},
			{"the same, in 256 MiB", "#8a5a9e", func(p point) float64 { return mib(p.limited.anon) }},
			{"incremental of 1,000 files, N more stored", "#3a7d44", func(p point) float64 { return mib(p.small.anon) }},
		}},
	}
	height := marginTop + panelHeight + 60 + 5*legendLine + 10
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="12">`+"\n",
		2*panelStep, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", 2*panelStep, height)
	for i, p := range panels {
		fmt.Fprintf(&b, `<g transform="translate(%d %d)">`+"\n", i*panelStep+marginLeft, marginTop)
		p.draw(&b, points)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return []byte(b.String())
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

func (p panel) draw(b *strings.Builder, points []point) {
	left := math.Log10(float64(points[0].n))
	right := max(left+1, math.Log10(float64(points[len(points)-1].n)))
	x := func(n int) float64 { return (math.Log10(float64(n)) - left) / (right - left) * panelWidth }
	y := func(v float64) float64 {
		return panelHeight - (math.Log10(v)-float64(p.low))/float64(p.top-p.low)*panelHeight
	}
	fmt.Fprintf(b, `<text x="0" y="-14" font-size="14">%s</text>`+"\n", p.title)
	for e := p.low; e <= p.top; e++ {
		at := y(math.Pow10(e))
		fmt.Fprintf(b, `<path d="M0 %.1fH%d" stroke="#ddd"/><text x="-8" y="%.1f" text-anchor="end">%s</text>`+"\n", at, panelWidth, at+4,
			strconv.FormatFloat(math.Pow10(e), 'f', -1, 64))
	}
	for _, q := range points {
		fmt.Fprintf(b, `<path d="M%.1f 0V%d" stroke="#ddd"/><text x="%.1f" y="%d" text-anchor="middle">10<tspan dy="-5" font-size="9">%.0f</tspan></text>`+"\n",
			x(q.n), panelHeight, x(q.n), panelHeight+20, math.Log10(float64(q.n)))
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="middle">N</text>`+"\n", panelWidth/2, panelHeight+40)
	fmt.Fprintf(b, `<rect width="%d" height="%d" fill="none" stroke="#555"/>`+"\n", panelWidth, panelHeight)
	for i, s := range p.series {
		var line, dots strings.Builder
		for _, q := range points {
			v := s.y(q)
			if v <= 0 {
				continue
			}
			v = min(max(v, math.Pow10(p.low)), math.Pow10(p.top)) // stays inside the frame
			fmt.Fprintf(&line, " %.1f,%.1f", x(q.n), y(v))
			fmt.Fprintf(&dots, `<circle cx="%.1f" cy="%.1f" r="3.5" fill="%s"/>`, x(q.n), y(v), s.color)
		}
		fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>%s`+"\n", strings.TrimSpace(line.String()), s.color, dots.String())
		at := panelHeight + 64 + i*legendLine
		fmt.Fprintf(b, `<path d="M0 %dH24" stroke="%s" stroke-width="3"/><text x="32" y="%d">%s</text>`+"\n", at-4, s.color, at, s.name)
	}
}
