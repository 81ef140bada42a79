// Builds Element's UI with the app in app/ into the folder that ELEMENT_FOLDER names.
const path = require("node:path");
const MiniCssExtractPlugin = require("mini-css-extract-plugin");
const { EsbuildPlugin } = require("esbuild-loader");
const webpack = require("webpack");

const folder = process.env.ELEMENT_FOLDER;
const installed = (name) => path.resolve(__dirname, "node_modules", name);
const compat = (name) => path.resolve(__dirname, "app/compat", `${name}.ts`);
const sdk = installed("matrix-react-sdk");
const target = "es2022";
const tsconfigRaw = {
    compilerOptions: { target, jsx: "react", useDefineForClassFields: false, experimentalDecorators: true },
};
const css = [
    require("postcss-import")(),
    require("postcss-mixins")(),
    require("postcss-simple-vars")(),
    require("postcss-nested")(),
    require("postcss-easings")(),
    require("postcss-hexrgba")(),
    require("postcss-preset-env")({ stage: 3, browsers: "last 2 Chrome versions" }),
];
const svgo = { name: "preset-default", params: { overrides: { removeViewBox: false } } };
const nothing = ["fs", "path", "crypto", "os", "http", "https", "net", "url", "zlib"];

module.exports = {
    mode: "production",
    devtool: false,
    entry: {
        "bundle": "./app/index.ts",
        "usercontent": path.join(sdk, "src/usercontent/index.ts"),
        "theme-light": path.join(sdk, "res/themes/light/css/light.pcss"),
        "theme-dark": path.join(sdk, "res/themes/dark/css/dark.pcss"),
    },
    output: {
        path: folder,
        filename: "bundles/[name].js",
        chunkFilename: "bundles/[name].[contenthash:8].js",
        assetModuleFilename: "assets/[name].[hash:8][ext]",
        publicPath: "auto",
    },
    optimization: { minimizer: [new EsbuildPlugin({ target, css: true })] },
    performance: { hints: false },
    resolve: {
        extensions: [".ts", ".tsx", ".js", ".jsx", ".json"],
        mainFields: ["browser", "module", "main"],
        alias: {
            "$(res)": path.join(sdk, "res"),
            "$webapp": folder,
            "react": installed("react"),
            "react-dom": installed("react-dom"),
            // What the UI imports of the engine; the engine's own files import each other by path.
            "matrix-js-sdk/src/matrix$": compat("matrix"),
            "matrix-js-sdk/src/utils$": compat("utils"),
            "matrix-js-sdk/src/randomstring$": compat("randomstring"),
            "matrix-js-sdk/src/rendezvous$": compat("rendezvous"),
            "matrix-js-sdk/src/crypto$": compat("crypto"),
            "matrix-js-sdk/src/oidc/error$": compat("oidc"),
            "matrix-js-sdk/src/oidc/authorize$": compat("oidc"),
            "matrix-js-sdk": installed("matrix-js-sdk"),
            "engine": installed("matrix-js-sdk"),
        },
        fallback: {
            buffer: require.resolve("buffer/"),
            util: require.resolve("util/"),
            stream: require.resolve("stream-browserify"),
            events: require.resolve("events/"),
            ...Object.fromEntries(nothing.map((name) => [name, false])),
        },
    },
    module: {
        noParse: /highlight\.js[\\/]lib[\\/]languages/,
        rules: [
            { test: /\.[cm]?js$/, resolve: { fullySpecified: false } },
            {
                test: /\.tsx?$/,
                loader: "esbuild-loader",
                options: { target, tsconfigRaw },
                resolve: { fullySpecified: false },
            },
            {
                test: /opus-recorder[\\/]dist[\\/](encoderWorker|waveWorker|decoderWorker)\.min\.(js|wasm)$/,
                type: "asset/resource",
            },
            { test: /recorderWorklet\.js$/, type: "asset/resource" },
            {
                test: /languages\.json$/,
                type: "asset/resource",
                generator: { filename: "i18n/[name].[hash:8][ext]" },
            },
            {
                test: /\.p?css$/,
                exclude: /exportCustomCSS\.css$/,
                use: [
                    MiniCssExtractPlugin.loader,
                    {
                        loader: "css-loader",
                        options: { importLoaders: 1, url: { filter: (url) => !url.startsWith("data:") } },
                    },
                    {
                        loader: "postcss-loader",
                        options: { postcssOptions: { parser: "postcss-scss", plugins: css } },
                    },
                ],
            },
            {
                test: /\.svg$/,
                issuer: /\.[jt]sx?$/,
                use: [
                    {
                        loader: "@svgr/webpack",
                        options: {
                            exportType: "named",
                            namedExport: "Icon",
                            svgProps: { role: "presentation", "aria-hidden": true },
                            expandProps: "end",
                            svgoConfig: { plugins: [svgo] },
                        },
                    },
                    { loader: "file-loader", options: { name: "assets/[name].[contenthash:8].[ext]" } },
                ],
            },
            { test: /\.svg$/, issuer: /\.p?css$/, type: "asset/resource" },
            { test: /\.(gif|png|jpe?g|ttf|woff2?|ogg|mp3|xml|ico)$/, type: "asset/resource" },
        ],
    },
    plugins: [
        new webpack.NormalModuleReplacementPlugin(
            /^\.\/RecorderWorklet$/,
            path.join(folder, "recorderWorklet.js"),
        ),
        new MiniCssExtractPlugin({ filename: "bundles/[name].css", ignoreOrder: true }),
        new webpack.ProvidePlugin({ Buffer: ["buffer", "Buffer"], process: "process/browser.js" }),
        new webpack.EnvironmentPlugin({ NODE_ENV: "production", VERSION: "3.114.0" }),
    ],
};
