// Chromium, with its back-forward cache, and Firefox where Debian's package of it is installed.
import { existsSync } from 'node:fs';
import { chromium } from 'playwright-core';
import puppeteer from 'puppeteer-core';

const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const FIREFOX = process.env.FIREFOX ?? '/usr/bin/firefox-esr';

/** As tests start it; Playwright turns the cache off by itself. */
export const startChromium = () => chromium.launch({
  executablePath: CHROMIUM,
  ignoreDefaultArgs: ['--disable-back-forward-cache'],
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-sync'],
});

/** In which a page is hidden when another one is in front, and can be frozen; Playwright keeps that from pages. */
export const startPlainChromium = () => puppeteer.launch({ executablePath: CHROMIUM, headless: true, args: ['--no-sandbox', '--disable-gpu', '--disable-quic'] });

export const hasFirefox = existsSync(FIREFOX);
/** By WebDriver BiDi, which is what it has without changes of its own. */
export const startFirefox = () => puppeteer.launch({ browser: 'firefox', executablePath: FIREFOX, headless: true });
