// Looks at a page in headless Chromium, in light and in dark, wide and narrow:
//
//   node tools/page.mjs PAGE.html [PICTURES]      # PICTURES: a directory for screenshots
//
// It fails where the page asks for anything outside itself, reports an error, is wider than the window, has a drawing without size, text of
// a drawing that lies on other text of it or outside it, or text whose contrast with its background is below 4.5 (WCAG 2, AA).
// Needs puppeteer-core and @sparticuz/chromium where it is called from: tools/page.sh brings them.
import { createRequire } from 'node:module'
import { mkdirSync } from 'node:fs'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

const [page_path, pictures] = process.argv.slice(2)
if (!page_path) {
  console.error('usage: node tools/page.mjs PAGE.html [PICTURES]')
  process.exit(2)
}
const require = createRequire(path.join(process.cwd(), 'package.json'))
const load = async name => import(pathToFileURL(require.resolve(name)).href)
const chromium = (await load('@sparticuz/chromium')).default
const puppeteer = (await load('puppeteer-core')).default

const browser = await puppeteer.launch({
  args: [...chromium.args, '--no-sandbox'],
  executablePath: await chromium.executablePath(),
  headless: 'shell',
})
const found = []
if (pictures) mkdirSync(pictures, { recursive: true })
for (const [scheme, width] of [['light', 1300], ['dark', 1300], ['light', 420]]) {
  const page = await browser.newPage()
  const say = text => found.push(`${scheme}, ${width} wide: ${text}`)
  page.on('console', message => message.type() === 'error' && say(`console: ${message.text()}`))
  page.on('pageerror', error => say(`error: ${error.message}`))
  page.on('request', request => request.url().startsWith('file:') || request.url().startsWith('data:') || say(`asks for ${request.url()}`))
  await page.setViewport({ width, height: 900 })
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }])
  await page.goto(pathToFileURL(path.resolve(page_path)).href)
  for (const text of await page.evaluate(inspect)) say(text)
  if (pictures) await page.screenshot({ path: path.join(pictures, `${scheme}-${width}.png`), fullPage: true })
  await page.close()
}
await browser.close()
if (found.length) {
  console.error(found.join('\n'))
  process.exit(1)
}
console.log(`${page_path}: nothing to object to`)

function inspect() {
  const found = []
  if (document.documentElement.scrollWidth > window.innerWidth + 1) found.push(`${document.documentElement.scrollWidth} pixels wide`)
  const channels = text => (text.match(/[\d.]+/g) ?? []).map(Number)
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(c => (c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4))
    return 0.2126 * x + 0.7152 * y + 0.0722 * z
  }
  const back = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor)
      if (colour.length === 3 || colour[3] > 0) return colour
    }
    return [255, 255, 255]
  }
  const contrast = (one, other) => {
    const [a, b] = [light(one), light(other)].sort((x, y) => y - x)
    return (a + 0.05) / (b + 0.05)
  }
  const told = new Set()
  const check = (element, colour) => {
    const value = contrast(channels(colour), back(element))
    const key = `${colour} on ${back(element)}`
    if (value < 4.5 && !told.has(key)) {
      told.add(key)
      found.push(`contrast ${value.toFixed(1)} of ${JSON.stringify(element.textContent.trim().slice(0, 30))}`)
    }
  }
  for (const element of document.querySelectorAll('h1, h2, p, th, td, pre, figcaption, .key')) check(element, getComputedStyle(element).color)
  for (const svg of document.querySelectorAll('svg')) {
    const box = svg.getBoundingClientRect()
    const name = svg.getAttribute('aria-label')
    if (box.width < 50 || box.height < 30) found.push(`${name}: ${box.width} by ${box.height}`)
    const texts = [...svg.querySelectorAll('text')].map(text => [text, text.getBoundingClientRect()])
    for (const [text, place] of texts) {
      check(text, getComputedStyle(text).fill)
      if (place.left < box.left - 1 || place.right > box.right + 1 || place.top < box.top - 1 || place.bottom > box.bottom + 1)
        found.push(`${name}: ${JSON.stringify(text.textContent.trim())} lies outside`)
    }
    let overlaps = 0
    for (let i = 0; i < texts.length; i++)
      for (let j = i + 1; j < texts.length; j++) {
        const [a, b] = [texts[i][1], texts[j][1]]
        const across = Math.min(a.right, b.right) - Math.max(a.left, b.left)
        const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top)
        // The boxes of lines are higher than what is written in them.
        if (across > 1 && down > 0.5 * Math.min(a.height, b.height) && overlaps++ < 3)
          found.push(`${name}: ${JSON.stringify(texts[i][0].textContent.trim())} and ${JSON.stringify(texts[j][0].textContent.trim())} overlap`)
      }
  }
  return found
}
